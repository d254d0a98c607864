"""
A model that takes a while to load, loaded once: every later run of this script, or of any other, finds it by name.

The model counts the words of Python's own manual and mends spelling after them.
"""

import re
import string
from collections import Counter

import bgpy


def init_task():
    from pydoc_data.topics import topics

    print("Training")  # goes to the server's log, once
    return {"words": Counter(re.findall("[a-z]+", " ".join(topics.values()).lower())), "asked": 0}


def candidates(word):
    """Return all that is one slip of the keyboard away."""
    splits = [(word[:index], word[index:]) for index in range(len(word) + 1)]
    letters = string.ascii_lowercase
    slips = {word}
    slips.update(left + right[1:] for left, right in splits if right)
    slips.update(left + right[1] + right[0] + right[2:] for left, right in splits if len(right) > 1)
    slips.update(left + letter + right[1:] for left, right in splits if right for letter in letters)
    slips.update(left + letter + right for left, right in splits for letter in letters)
    return slips


def exec_task(client_socket, state, args):
    state["asked"] += 1
    best = max(candidates(args["word"]), key=lambda word: state["words"][word])
    bgpy.respond(client_socket, {"best": best, "asked": state["asked"]})
    return state


def exit_task(client_socket, state, args):
    pass


with bgpy.start("spelling", init_task, exec_task, exit_task) as client:
    print(client.execute({"word": "functoin"}, await_response=True))

# The same from any other script that runs now or later; it needs no tasks.
with bgpy.connect("spelling") as client:
    print(client.execute({"word": "exeption"}, await_response=True))
    client.terminate()
