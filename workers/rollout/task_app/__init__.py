"""The task app: episodes over HTTP, for trainers and evaluators of other makes and for synthq's own workers elsewhere.

app        the HTTP side: routes, keys, errors. It reads bytes and sends bytes; nothing is played in its process
schemas    what the OpenAPI document says of it
wire       how it talks to the processes that play
pool       the processes that play, and the way there and back
player     one of those processes: many rollouts at once in one event loop
bodies     what a body of ``POST /rollout`` may hold
ask        a body, in either form, as one strict eval spec and the limits of one rollout
rollout    plays it with the same ``Game`` as every worker
answer     what was played, in the contract's words
tasks      what there is to be played

python -m workers.rollout.task_app
"""
