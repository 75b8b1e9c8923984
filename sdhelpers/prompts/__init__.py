"""Prompts: the grammar, what a prompt says at each step, and its embeddings. Built in chapters 10 and 12.

from sdhelpers.prompts import encode

pipe(**encode(pipe, "a (cat:1.3) on a beach"), num_inference_steps=20)
"""

from sdhelpers.prompts.chunks import apply_weights, encode, to_chunks
from sdhelpers.prompts.grammar import PromptError, parse
from sdhelpers.prompts.readings import read_prompt, read_schedule, write_reading
from sdhelpers.prompts.schedule import ScheduledPrompt, real_steps
