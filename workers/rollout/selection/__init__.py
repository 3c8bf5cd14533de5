"""Which episodes a filter keeps, and what each of its rules took away.

==============  ===============================================================================
``episodes``    episodes out of the store, as rows without their turns
``rules``       the conditions that a filter's table asks for
``looks``       what an episode looked like from turn to turn, for the three rules that ask that
``tally``       how many episodes each rule took away; the best share of what is left
==============  ===============================================================================

The rules that look at turns come last, and look only at episodes that passed all the others.
"""

from workers.rollout.selection.episodes import Candidate, candidates
from workers.rollout.selection.rules import Rule, rules_of
from workers.rollout.selection.tally import Tally, best_share

__all__ = ["Candidate", "Rule", "Tally", "best_share", "candidates", "rules_of"]
