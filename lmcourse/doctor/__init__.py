"""`lmcourse doctor`: is this machine ready for the course, and if not, which command mends it?

name                     file
doctor, choose_model     collect.py: what commands and notebook cells call
link_model               course.py: ~/internlm2-chat-1_8b
class_report             classroom.py: what a class needs
Row, Report              report.py: a line (ok, warn or fix) and the table of them
checks of one subject    software.py gpu.py machine.py network.py course.py

Each check is a pure function from facts to rows; probes that gather the facts stand beside it. Nothing here imports
torch before a probe needs it, and a torch that is missing or broken is a row of the table like any other.
"""

from lmcourse.doctor.classroom import class_report
from lmcourse.doctor.collect import choose_model, doctor
from lmcourse.doctor.course import link_model
from lmcourse.doctor.report import Report, Row

__all__ = ["Report", "Row", "choose_model", "class_report", "doctor", "link_model"]
