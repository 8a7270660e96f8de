"""Prompts to embeddings, in a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from atelier_generator.models import Models
from atelier_generator.prompt_chunks import (
    count_tokens,
    dropped_text,
    encode_chunks,
    truncation_warning,
    whole_text,
)
from atelier_generator.prompt_syntax import parse
from atelier_generator.request import CompletedRequest
from atelier_runtime.device import is_out_of_memory
from atelier_runtime.metrics import StageReport, StageTimer
from atelier_runtime.outcomes import ResponseWarning, WarningCode
from atelier_runtime.settings import StartupError
from atelier_runtime.vram import probe_for

_CHECK_S = 0.05  # how often a wait asks whether anybody is still waiting for the image


@dataclass(frozen=True)
class Text:
    """Embeddings of a prompt (1, tokens, features) and pooled (1, features); the negative prompt's alike.

    Those are None where there is no guidance. `tokens` is the same for both, a multiple of 77.
    """

    embeddings: torch.Tensor
    negative_embeddings: torch.Tensor | None
    pooled: torch.Tensor
    negative_pooled: torch.Tensor | None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All embeddings."""
        every = (self.embeddings, self.negative_embeddings, self.pooled, self.negative_pooled)
        return tuple(tensor for tensor in every if tensor is not None)


@dataclass(frozen=True)
class EncodedPrompt:
    """A request's prompts, for the base network and, if it runs, the refiner; and what that cost."""

    base: Text
    refiner: Text | None
    warnings: tuple[ResponseWarning, ...]
    cost: StageReport
    tokens: int = 0
    """Of the prompt, without those of begin and end."""


class PendingPrompt:
    """A request's prompts on their way: encoded in another thread, or by whoever reads them.

    Each of the request's images reads them, `readers` in all; the last lets go of them.
    """

    def __init__(self, encode: Callable[[], EncodedPrompt], readers: int = 1) -> None:
        self._encode = encode
        self._unread = readers
        self._result: EncodedPrompt | None = None
        self._future: Future[EncodedPrompt] | None = None

    def encode_in(self, executor: Executor, encode: Callable[[], EncodedPrompt]) -> None:
        """Let an executor encode them, for the request of the current context."""
        self._future = executor.submit(copy_context().run, encode)

    def read(self, check: Callable[[], None]) -> EncodedPrompt:
        """Wait for the result; on the device thread. `check` raises to stop the wait.

        If memory ran out in the other thread, beside what the device was doing, they are encoded again.
        """
        result = self._result or self._wait(check)
        self._unread -= 1
        self._result = result if self._unread > 0 else None
        return result

    def _wait(self, check: Callable[[], None]) -> EncodedPrompt:
        future, self._future = self._future, None
        while future is not None:
            check()
            try:
                return future.result(timeout=_CHECK_S)
            except TimeoutError:
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            future = None  # its exception keeps the tensors of the failed attempt
        return self._encode()

    def cancel(self) -> None:
        """Do not encode the prompts any more, if that has not begun."""
        if (future := self._future) is not None:
            future.cancel()


class PromptEncoder:
    """Encodes the prompts of waiting requests in a thread of its own, beside the steps of others.

    On a GPU in a stream of its own. While requests are served the tokenizers, which threads cannot share, are
    used by one thread at a time, and so are the text encoders, which LoRAs change for a while. Where the
    networks take turns on the device (`offload`), prompts are encoded in turn too, on the device thread.
    """

    def __init__(self, models: Models, clip_skip: int = 0) -> None:
        """`clip_skip`: of the base, as in diffusers' `encode_prompt`: layers to skip before the last but one.

        It is 2 less than what manifests and AUTOMATIC1111 count from the last layer. Raises `StartupError` if
        the text encoders have fewer layers.
        """
        self._models = models
        self._clip_skip = clip_skip
        self._check_clip_skip()
        self._lock = threading.Lock()
        self._stream = torch.cuda.Stream(models.device) if models.device.type == "cuda" else None
        self._executor = None if models.placement.offload else ThreadPoolExecutor(1, "text")

    def start(self, request: CompletedRequest, *, refine: bool) -> PendingPrompt:
        """Start to encode a completed request's prompts; `refine`: the refiner network will run."""
        pending = self.later(request, refine=refine)
        if self._executor is not None:
            pending.encode_in(self._executor, partial(self._encode_beside, request, refine=refine))
        return pending

    def later(self, request: CompletedRequest, *, refine: bool) -> PendingPrompt:
        """Leave it to the reader to encode a completed request's prompts."""
        return PendingPrompt(partial(self.encode, request, refine=refine), request.num_images)

    def encode(self, request: CompletedRequest, *, refine: bool) -> EncodedPrompt:
        """Encode a completed request's prompts; on the device thread."""
        return self._encode_all(request, refine, StageTimer(probe_for(self._models.device)))

    def _encode_beside(self, request: CompletedRequest, *, refine: bool) -> EncodedPrompt:
        # Without a probe: it would wait for the steps of others, and reset the peak of their memory.
        timer = StageTimer()
        if self._stream is None:
            return self._encode_all(request, refine, timer)
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            prompt = self._encode_all(request, refine, timer)
            for text in (prompt.base, prompt.refiner):
                for tensor in text.tensors if text else ():
                    # Or its memory could be used again while the device thread's stream still reads it.
                    tensor.record_stream(torch.cuda.default_stream(self._models.device))
        return prompt

    def _encode_all(self, request: CompletedRequest, refine: bool, timer: StageTimer) -> EncodedPrompt:
        base, refiner = self._models.text_to_image, self._models.refiner
        placement = self._models.placement
        with self._lock, torch.inference_mode(), timer.stage("text"):
            warnings = tuple(self._warnings(request))
            tokens = count_tokens(base.tokenizer, parse(request.prompt, request.prompt_syntax))
            loras = self._models.loras.get(request.loras)
            if loras:
                placement.release()  # or what they add would not be copied
                self._models.adapted_unet.prepare(loras)  # beside the steps of others
            with self._models.adapted_text_encoders.applied(loras):
                placement.use("text")
                text = self._encode(base, request, self._clip_skip)
            # Without LoRAs, which are made for the base.
            refiner_text = self._encode(refiner, request) if refine else None
            if self._stream is not None:
                torch.cuda.current_stream(self._models.device).synchronize()
        return EncodedPrompt(text, refiner_text, warnings, timer.reports[0], tokens)

    def _encode(self, pipeline: Any, request: CompletedRequest, clip_skip: int = 0) -> Text:
        most = self._models.model_set.max_prompt_chunks
        prompt = parse(request.prompt, request.prompt_syntax)
        negative = parse(request.negative_prompt or "", request.prompt_syntax) if request.guided else None
        text = whole_text(pipeline, prompt)
        negative_text = whole_text(pipeline, negative) if negative is not None else ""
        if text is None or negative_text is None or clip_skip:
            device = self._models.device
            return Text(
                *encode_chunks(pipeline, prompt, negative, device=device, clip_skip=clip_skip, most=most)
            )
        embeddings, negative_embeddings, pooled, negative_pooled = pipeline.encode_prompt(
            prompt=text,
            device=self._models.device,
            do_classifier_free_guidance=request.guided,
            # None lets the set's own configuration decide what an empty prompt is (SDXL: zeros).
            negative_prompt=negative_text or None,
        )
        return Text(embeddings, negative_embeddings, pooled, negative_pooled)

    def _check_clip_skip(self) -> None:
        base = self._models.text_to_image
        layers = min(e.config.num_hidden_layers for e in (base.text_encoder, base.text_encoder_2))
        if not -1 <= self._clip_skip < layers:
            raise StartupError(
                f"MODEL_SET: clip_skip is {self._clip_skip + 2}; with text encoders of {layers} layers it "
                f"must be from 1 to {layers + 1}"
            )

    def _warnings(self, request: CompletedRequest) -> Iterator[ResponseWarning]:
        """Warn of words that the model set cannot take in, and of a negative prompt that has no effect."""
        most = self._models.model_set.max_prompt_chunks
        if most is not None:
            yield from self._truncations(request, most)
        own_negative = (request.negative_prompt or "") != self._models.model_set.defaults.negative_prompt
        if own_negative and request.negative_prompt and not request.guided:
            yield ResponseWarning(
                WarningCode.OPTION_HAS_NO_EFFECT,
                "negative_prompt: has no effect when guidance_scale is 1 or less",
            )

    def _truncations(self, request: CompletedRequest, most: int) -> Iterator[ResponseWarning]:
        tokenizers = self._models.text_to_image.tokenizer, self._models.text_to_image.tokenizer_2
        for field, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
            prompt = parse(text, request.prompt_syntax)
            if cut := max((dropped_text(tokenizer, prompt, most) for tokenizer in tokenizers), key=len):
                yield ResponseWarning(WarningCode.PROMPT_TRUNCATED, truncation_warning(field, cut))
