"""Fixtures of this folder."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    """These tests write hundreds of tiny files; waiting for the disk would be most of their time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
