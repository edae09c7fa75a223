"""Reward functions that RLHF frameworks call in their own process. One module a framework; none imports it.

`trl.critic_rm`, `verl.compute_score`, `ms_swift.CriticRMORM`, `slime.custom_rm`, `areal.reward_fn`,
`easyr1.compute_score`: see docs/frameworks. Each that is awaited has a twin that is not, for versions that await none.

A sample that can't be scored never gets a number. Where the framework can leave it out, it does; else the function
raises what the client did.
"""
