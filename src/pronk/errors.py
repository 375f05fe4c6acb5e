"""What a user can do wrong, by name. The command line prints the message of a PronkError and exits 2.

A message is one line: what was found, what was expected, and what to do.
"""

from __future__ import annotations


class PronkError(Exception):
    """Base of every error that a user's input can cause."""


class CheckpointError(PronkError):
    """A model's files are missing, damaged, or not what they claim to be."""


class TokenizerError(PronkError):
    """A vocabulary cannot be read or used, or ids and text do not fit it."""


class ChatFormatError(PronkError):
    """Messages or tools cannot be put into a model's chat format, or its template fails."""


class RequestError(PronkError):
    """A request asks for something impossible: a prompt past the context, a temperature below zero."""


class DownloadError(PronkError):
    """A file could not be fetched, or what arrived is not what was promised."""


class BackendError(PronkError):
    """A backend, a device or an extra that is not here, or has too little memory."""


class EngineStopped(PronkError):
    """The thread that runs a served model has ended: it was closed, or an error that is named ended it."""
