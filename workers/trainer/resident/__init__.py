"""What a trainer worker looks after beside Celery: one child process that holds the model, and keeps it between steps.

A step function asks it for work, and writes down what it tells meanwhile:

    with resident.child() as child:
        result = child.call("workers.trainer.sft.training:run", args, on_event=write_down, check=context.check)

The child reads the store and files; only the step function writes to the store, under its step's fence.
"""

from workers.trainer.resident.calls import Child
from workers.trainer.resident.keeper import Resident, child, give_up, make

__all__ = ["Child", "Resident", "child", "give_up", "make"]
