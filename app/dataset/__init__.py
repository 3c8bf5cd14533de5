"""Checks training data: JSONL in OpenAI's chat format, line by line, every image decoded, nothing passed over in silence.

Documented by OpenAI (guides "Supervised fine-tuning" and "Vision fine-tuning", the API reference's chat format for fine-tuning,
and the Files API), and checked in both formats: a line is an object with ``messages`` and perhaps ``tools`` and
``parallel_tool_calls``; the roles; content as a text or a list of parts; an assistant's content may be missing when it calls
tools; ``weight`` is 0 or 1 and only the assistant's; arguments are JSON in a text; images are in user messages alone, as http(s)
or ``data:`` URLs, JPEG, PNG or WEBP, RGB or RGBA, 10 MB at most, 10 in an example; 10 examples at least, 50,000 with images at
the most, and 512 MB a file. ``functions`` and ``function_call`` are deprecated there and refused here.

synthq's own, with ``format="synthq"``: every image is inline, of one frame, and of a size that a model takes; the last message is
the assistant's; no reply and no user message is empty; a call's tool is offered by the line; no text holds a control token;
``metadata`` has the types that the filter writes. The counts of OpenAI's files do not bind here: one line is enough. In both
formats arguments must fit the tool's schema, since a line that contradicts itself teaches nothing.
"""

from app.dataset.check import check, ensure
from app.dataset.summary import FORMATS, Format, Options, Summary

__all__ = ["FORMATS", "Format", "Options", "Summary", "check", "ensure"]
