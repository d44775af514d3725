"""TensorRT's classes by name, for annotations: it ships no types.

A name says what an `Any` is; a test looks every member that is used on it up in the API of each TensorRT version.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Module: TypeAlias = Any
"""`tensorrt` or `tensorrt_rtx`, imported."""

Builder: TypeAlias = Any
EngineInspector: TypeAlias = Any
IActivationLayer: TypeAlias = Any
IBuilderConfig: TypeAlias = Any
IConstantLayer: TypeAlias = Any
ICudaEngine: TypeAlias = Any
IElementWiseLayer: TypeAlias = Any
IExecutionContext: TypeAlias = Any
IHostMemory: TypeAlias = Any
ILayer: TypeAlias = Any
ILogger: TypeAlias = Any
INetworkDefinition: TypeAlias = Any
IOptimizationProfile: TypeAlias = Any
IOutputAllocator: TypeAlias = Any
IPoolingLayer: TypeAlias = Any
IProgressMonitor: TypeAlias = Any
IReduceLayer: TypeAlias = Any
IResizeLayer: TypeAlias = Any
IRuntimeConfig: TypeAlias = Any
ITensor: TypeAlias = Any
ITimingCache: TypeAlias = Any
IUnaryLayer: TypeAlias = Any
OnnxParser: TypeAlias = Any
ParserError: TypeAlias = Any
Runtime: TypeAlias = Any
