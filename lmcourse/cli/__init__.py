"""The commands, one file each; __main__ imports the one that is run.

lab       JupyterLab on the lessons       convert   a model in the engine's own format
doctor    checks of this machine          bench     measurements of this machine
list      the model families              homework  exercises
chat      talking with a model            flags     options that commands share
lite      4-bit weights                   talk      a conversation in the terminal
serve     a server, and its clients
"""
