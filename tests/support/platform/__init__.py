"""A science platform on 127.0.0.1 for tests and benchmarks of remote repositories.

`science_platform` starts it, `settings` says what it imitates, `fixtures` has it for tests. It is two processes: `front`
holds the objects (moto's S3 server) and the ports that clients meet, `butler_server` is daf_butler's own server. They import
only what they need, so nothing is imported here.
"""
