"""One file per kind of training dialogue: each gives `scene(rng) -> Dialogue`.

arithmetic.py sums · capitals.py · word_lists.py sort, reverse · passkey.py · recall.py earlier turns · tools.py calls
course.py questions about the course · chat.py small talk, jokes, cities, suggestions · stories.py long answers
"""
