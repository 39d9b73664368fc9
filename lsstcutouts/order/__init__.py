"""The order of an epoch, its steps and lanes: functions of arrays.

Each result depends only on the arguments, not on time, machine or global random state, so that every rank, worker and
resumed run computes the same result.
"""
