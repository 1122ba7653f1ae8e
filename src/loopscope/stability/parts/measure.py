"""All parts beyond the orbits, by which the second and third axis are judged."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopscope.stability.parts.basin import measure_basin
from loopscope.stability.parts.geometry import measure_geometry
from loopscope.stability.parts.input_dependence import measure_input_dependence
from loopscope.stability.parts.progress import Progress
from loopscope.stability.parts.sample import Sample
from loopscope.stability.parts.spectrum import measure_spectrum
from loopscope.stability.results import BasinResult, GeometryResult, InputDependenceResult, SpectrumResult


@dataclass(frozen=True)
class Measurements:
    """The measurements beyond the orbits. What could not be measured is None or empty."""

    input_dependence: InputDependenceResult = field(default_factory=InputDependenceResult)
    basin: BasinResult | None = None
    spectrum: SpectrumResult | None = None
    geometry: GeometryResult = field(default_factory=GeometryResult)


def measure(sample: Sample, progress: Progress) -> Measurements:
    """Measure the parts that belong to the effort. ``progress`` keeps the reason why a part is missing."""
    dependence = measure_input_dependence(sample, progress)
    basin = progress.run("basin", lambda: measure_basin(sample))
    spectrum = progress.run("spectrum", lambda: measure_spectrum(sample))
    return Measurements(dependence, basin, spectrum, measure_geometry(sample, spectrum, progress))
