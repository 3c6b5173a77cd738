"""What runs inside the process of a student's answer. It stands alone: nothing here imports from the rest of lmcourse.

The grader copies this folder into the answer's temporary home, since the child must not see lmcourse.homework.

plain     values as plain data, and messages over a pipe
cells     a notebook's cells → the code that an answer needs
confine   what the process may do: limits, Landlock, an audit hook
untried   is this still the stub?
runner    the process: loads an answer, calls it, sends back what it returned
"""
