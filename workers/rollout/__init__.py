"""The rollout role: plays episodes on a CPU, and exports and scores what was played."""
