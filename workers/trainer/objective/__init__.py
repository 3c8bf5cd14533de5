"""What training aims at: how much better than expected a turn was (``advantages``), and what is made of it (``losses``)."""
