"""Settings of the HTTP service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from noterec.config.data import ImagesConfig
from noterec.config.settings import Settings


class ServeConfig(Settings):
    """Neighbours over HTTP (`noterec serve`). There is no setting for the token: it comes from NOTEREC_TOKEN or a file."""

    protect: Literal["changes", "all"] = Field(
        "changes",
        description="what needs the token: adding and removing notes; or all but health, readiness and metrics",
    )
    hosts: tuple[str, ...] = Field(
        (),
        description="names by which it may be asked, as in the Host header, beside localhost, addresses and that of --host; where "
        "none is given, any name will do, unless it listens on this machine alone",
    )
    max_body_bytes: int = Field(32_000_000, ge=1024, description="of a request's body; beyond it 413, unread")
    max_bodies_bytes: int = Field(
        512_000_000, ge=1024, description="of all bodies that are held at a time; beyond it 503"
    )
    max_k: int = Field(200, ge=1, le=10_000, description="neighbours that one request may ask for")
    max_notes: int = Field(64, ge=1, le=4096, description="notes that one request may have encoded")
    max_images: int = Field(8, ge=0, le=64, description="pictures of one note")
    images: ImagesConfig = ImagesConfig(max_bytes=10_000_000, max_pixels=25_000_000)
    header_seconds: float = Field(10, gt=0, description="for a request's line and headers to arrive; beyond it 408")
    body_seconds: float = Field(20, gt=0, description="for a request's whole body to arrive; beyond it 408")
    request_seconds: float = Field(30, gt=0, description="for an answer, once the request is here; beyond it 504")
    keep_alive_seconds: int = Field(5, ge=1, description="an idle connection stays open")
    drain_seconds: float = Field(
        0,
        ge=0,
        description="told to stop, /readyz says 503 for so long before connections are refused: for a load balancer",
    )
    shutdown_seconds: int = Field(20, ge=1, description="for requests under way to be answered, once it stops")
    max_requests: int = Field(64, ge=1, description="requests that are worked on at a time; beyond it 503")
    max_connections: int = Field(1000, ge=1, description="connections at a time; beyond it they are closed at once")
    max_waiting: int = Field(512, ge=1, description="notes that wait to be encoded; beyond it 429")
    batch_notes: int = Field(32, ge=1, description="notes of several requests that are encoded together")
    batch_wait_ms: float = Field(3, ge=0, le=1000, description="that the first of them waits for others")
    batch_tokens: int | None = Field(None, ge=64, description="tokens of a batch, as in `noterec embed`")
    decoders: int = Field(2, ge=1, le=64, description="pictures that are decoded at a time")
    precision: Literal["fp32", "bf16", "fp16", "int8"] = Field(
        "fp32",
        description="of the backbone's matrix products; `noterec calibrate` says what the others cost. fp16: GPU",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    writing: bool = Field(
        True,
        description="the page may have the model write about a new note: slow, one note at a time, without the token",
    )
    cache_bytes: int = Field(64_000_000, ge=0, description="of answers that are kept for the same question; 0 = none")
    poll_seconds: float = Field(1, gt=0, description="how often a new bundle, or a change of it, is looked for")
