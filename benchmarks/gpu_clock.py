"""Time, memory and kernels of work on a device."""

import gc
import statistics
import time
import traceback

import torch
from torch.profiler import ProfilerActivity, profile


class Clock:
    """Times work on a device, and gives up once the time is spent."""

    def __init__(self, device, repeats, minutes):
        self.device, self.repeats = device, repeats
        self.end = time.monotonic() + 60 * minutes

    def wait(self):
        """Until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work, warm_up=True):
        """Median seconds of a call, after one that does not count."""
        if warm_up:
            work()
        times = []
        for _ in range(self.repeats):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def peak(self, work):
        """Peak memory of a call in GiB; None where it is not counted."""
        if self.device.type != "cuda":
            work()
            return None
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**30

    def spent(self):
        """Whether the time is spent (bool)."""
        return time.monotonic() > self.end

    def guarded(self, work, *given):
        """What a piece gives, or why it gave nothing (dict)."""
        if self.spent():
            return {"skipped": "the time was spent"}
        began = time.monotonic()
        try:
            found = work(*given)
        except torch.OutOfMemoryError:
            found = {"skipped": "does not fit the memory"}
        except Exception as error:  # The other pieces are to be measured.
            traceback.print_exc(limit=-5)
            found = {"failed": f"{type(error).__name__}: {error}"[:500]}
        title = getattr(work, "__name__", "piece")
        took = f"{time.monotonic() - began:.1f} s"
        given = [g for g in given if isinstance(g, (str, int))]
        print(title, *given, took, flush=True)
        return found

    def empty(self):
        """Give back the memory of models that are no longer used."""
        # Module hooks make circles, which keep 16 GB until they are cut.
        gc.collect()
        # What was compiled for one model's sizes counts against the next's.
        torch._dynamo.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def copy_rate(clock, size):
    """Bytes a second that the device reads and writes in a large copy."""
    source = torch.empty(size, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    return 2 * size / clock.seconds(lambda: target.copy_(source))


def kernels(device, work, names=()):
    """Kernels that some work ran on a GPU."""
    if device.type != "cuda":
        work()
        return None
    work()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    events = [
        event
        for event in profiler.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    events.sort(key=lambda event: -event.self_device_time_total)
    found = {
        "count": sum(event.count for event in events),
        "seconds": sum(e.self_device_time_total for e in events) / 1e6,
        "longest": [
            [e.key[:70], e.count, round(e.self_device_time_total)]
            for e in events[:10]
        ],
    }
    for name in names:
        found[name] = sum(e.count for e in events if name in e.key)
    return found
