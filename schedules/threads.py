"""How do several threads take the shares of one job, without a C compiler?

A pool of operating-system threads that never run Python: what they execute is written below in
LLVM's language and compiled by TVM in a moment. Between jobs a worker looks for work for some
tens of microseconds, so that one call after the other costs no system call; then it sleeps. To
wake it costs the caller some 20 microseconds on a virtual machine, so that a small job does so
only when it comes right after another one. The caller always works too, and takes whatever no
worker has taken: one that comes late finds nothing, and a job never waits for one that has not
begun.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading
from functools import cache

from parc_hw.device import Device, Isa
from parc_hw.errors import UnsupportedError
from schedules._tvm import IRModule, Target, llvm_module
from schedules.aot import finalize
from schedules.jit import add_functions, c_function, scratch_memory

__all__ = ["MOST_SHARES", "Pool", "shared_pool"]

MOST_SHARES = 2**15  # they, and threads, are counted in 16 bits

_LOOKS = 2000  # of a worker before it sleeps, with a pause after each: 20 to 100 microseconds
_PATIENCE = 2000  # of the caller at the workers' last shares, before it yields its processor
_LINE = 64  # bytes: words that different threads write lie in lines of their own
_IN_A_ROW = 50_000  # nanoseconds from the end of a job to a call that comes right after it
_FIELDS = ("state", "done", "wake", "sleepers", "stop", "busy", "job_at", "ended", "mode")
_FUTEX = {Isa.X86_64: 202, Isa.AARCH64: 98}  # Linux's number of the system call
_PAUSE = {Isa.X86_64: "@llvm.x86.sse2.pause()", Isa.AARCH64: "@llvm.aarch64.hint(i32 1)"}
# Rounding and flushing of denormal numbers: a worker computes as its caller would.
_SAVE_MODE = {
    Isa.X86_64: "call void @llvm.x86.sse.stmxcsr(ptr %mode)",
    Isa.AARCH64: "%mode.now = call i64 @llvm.aarch64.get.fpcr()\n  store i64 %mode.now, ptr %mode",
}
_TAKE_MODE = {
    Isa.X86_64: "call void @llvm.x86.sse.ldmxcsr(ptr %mode)",
    Isa.AARCH64: "%mode.then = load i64, ptr %mode\n  call void @llvm.aarch64.set.fpcr(i64 %mode.then)",
}
_DECLARED = {
    Isa.X86_64: "declare void @llvm.x86.sse.stmxcsr(ptr)\ndeclare void @llvm.x86.sse.ldmxcsr(ptr)",
    Isa.AARCH64: "declare i64 @llvm.aarch64.get.fpcr()\ndeclare void @llvm.aarch64.set.fpcr(i64)",
}
_WORK, _RUN, _STOP = "parc_pool_work", "parc_pool_run", "parc_pool_stop"


def _text(isa: Isa) -> str:
    """The pool's functions.

    `state` is first + last * 2**16 + places * 2**32: the shares of the present job from `first` to
    before `last` have not been taken, and so many places are left for workers. The caller takes
    the first share, a worker the last: in repeated calls each then finds its data in its own
    cache. A worker's place is its number as a thread of the job. It reports a share as done
    only after it has tried to take the next one; so a job cannot end, nor its words change, while a
    worker has a place in it.
    """
    pause = f"call void {_PAUSE[isa]}"
    futex = f"call i64 (i64, ...) @syscall(i64 {_FUTEX[isa]}, ptr %wake"
    fields = "\n".join(
        f"  %{name} = getelementptr i8, ptr %pool, i64 {_LINE * number}"
        for number, name in enumerate(_FIELDS)
    )

    def shares(of: str) -> str:
        """Split state %of: %of.first, %of.last, and %of.none, whether no share is left."""
        return f"""
  %{of}.first = and i64 %{of}, 65535
  %{of}.high = lshr i64 %{of}, 16
  %{of}.last = and i64 %{of}.high, 65535
  %{of}.none = icmp eq i64 %{of}.first, %{of}.last"""

    def clock(name: str) -> str:
        """%name: nanoseconds of a clock that only goes forward (CLOCK_MONOTONIC)."""
        return f"""
  %{name}.result = call i32 @clock_gettime(i32 1, ptr %time)
  %{name}.part_at = getelementptr i64, ptr %time, i64 1
  %{name}.s = load i64, ptr %time
  %{name}.part = load i64, ptr %{name}.part_at
  %{name}.whole = mul i64 %{name}.s, 1000000000
  %{name} = add i64 %{name}.whole, %{name}.part"""

    return f"""
declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)
declare void {_PAUSE[isa].replace(" 1", "")}
{_DECLARED[isa]}

define i32 @{_WORK}_text(i64 %pool.word) {{
entry:
  %pool = inttoptr i64 %pool.word to ptr
{fields}
  br label %look

look:
  %looks = phi i32 [0, %entry], [0, %leave], [0, %slept], [%looks.more, %pausing], [%looks, %join]
  %seen = load atomic i64, ptr %state seq_cst, align 8
  {shares("seen")}
  %place = lshr i64 %seen, 32
  %full = icmp eq i64 %place, 0
  %nothing = or i1 %seen.none, %full
  br i1 %nothing, label %idle, label %join

join:
  %joined = sub i64 %seen, {2**32 + 2**16}
  %joining = cmpxchg ptr %state, i64 %seen, i64 %joined seq_cst seq_cst
  %in = extractvalue {{ i64, i1 }} %joining, 1
  br i1 %in, label %begin, label %look

begin:
  %job = load ptr, ptr %job_at
  %share = load ptr, ptr %job
  {_TAKE_MODE[isa]}
  br label %work

work:
  %after = phi i64 [%seen.last, %begin], [%now.last, %take]
  %number = sub i64 %after, 1
  %result = call i32 %share(ptr %job, i64 %number, i64 %place)
  br label %again

again:
  %now = load atomic i64, ptr %state seq_cst, align 8
  {shares("now")}
  br i1 %now.none, label %leave, label %try

try:
  %less = sub i64 %now, {2**16}
  %trying = cmpxchg ptr %state, i64 %now, i64 %less seq_cst seq_cst
  %got = extractvalue {{ i64, i1 }} %trying, 1
  br i1 %got, label %take, label %again

take:
  %report = atomicrmw add ptr %done, i32 1 seq_cst
  br label %work

leave:
  %last.report = atomicrmw add ptr %done, i32 1 seq_cst
  br label %look

idle:
  %looks.more = add i32 %looks, 1
  %tired = icmp ugt i32 %looks.more, {_LOOKS}
  br i1 %tired, label %sleep, label %pausing

pausing:
  {pause}
  br label %look

sleep:
  %sleepers.before = atomicrmw add ptr %sleepers, i32 1 seq_cst
  %calls = load atomic i32, ptr %wake seq_cst, align 4
  %calls.word = zext i32 %calls to i64
  %stopped = load atomic i32, ptr %stop seq_cst, align 4
  %end = icmp ne i32 %stopped, 0
  br i1 %end, label %exit, label %check

check:
  %present = load atomic i64, ptr %state seq_cst, align 8
  {shares("present")}
  br i1 %present.none, label %wait, label %slept

wait:
  %woken = {futex}, i64 128, i64 %calls.word, ptr null)
  br label %slept

slept:
  %sleepers.after = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %look

exit:
  ret i32 0
}}

define i32 @{_RUN}_text(i64 %pool.word, i64 %job.word) {{
entry:
  %pool = inttoptr i64 %pool.word to ptr
  %job = inttoptr i64 %job.word to ptr
{fields}
  %share = load ptr, ptr %job
  %shares_at = getelementptr i64, ptr %job, i64 2
  %shares = load i64, ptr %shares_at
  %threads_at = getelementptr i64, ptr %job, i64 3
  %threads = load i64, ptr %threads_at
  %wakes_at = getelementptr i64, ptr %job, i64 4
  %wakes = load i64, ptr %wakes_at
  %time = alloca [2 x i64]
  %was.busy = atomicrmw xchg ptr %busy, i32 1 seq_cst
  %taken = icmp ne i32 %was.busy, 0
  br i1 %taken, label %alone, label %announce

alone:
  %next = phi i64 [0, %entry], [%following, %alone]
  %result.alone = call i32 %share(ptr %job, i64 %next, i64 0)
  %following = add i64 %next, 1
  %finished = icmp uge i64 %following, %shares
  br i1 %finished, label %exit, label %alone

announce:
  store ptr %job, ptr %job_at
  {_SAVE_MODE[isa]}
  store atomic i32 0, ptr %done seq_cst, align 4
  %others = sub i64 %threads, 1
  %places = shl i64 %others, 32
  %last = shl i64 %shares, 16
  %initial = or i64 %places, %last
  store atomic i64 %initial, ptr %state seq_cst, align 8
  %calls = atomicrmw add ptr %wake, i32 1 seq_cst
  %asleep = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %consider, label %again

consider:
  {clock("begun")}
  %before = load i64, ptr %ended
  %gap = sub i64 %begun, %before
  %row = icmp ult i64 %gap, {_IN_A_ROW}
  %large = icmp ne i64 %wakes, 0
  %worth = or i1 %row, %large
  br i1 %worth, label %call, label %again

call:
  %called = {futex}, i64 129, i64 %others)
  br label %again

again:
  %own = phi i32 [0, %announce], [0, %consider], [0, %call], [%own, %try], [%own.more, %work]
  %now = load atomic i64, ptr %state seq_cst, align 8
  {shares("now")}
  br i1 %now.none, label %closing, label %try

try:
  %less = add i64 %now, 1
  %trying = cmpxchg ptr %state, i64 %now, i64 %less seq_cst seq_cst
  %got = extractvalue {{ i64, i1 }} %trying, 1
  br i1 %got, label %work, label %again

work:
  %result = call i32 %share(ptr %job, i64 %now.first, i64 0)
  %own.more = add i32 %own, 1
  br label %again

closing:
  %all = trunc i64 %shares to i32
  %expected = sub i32 %all, %own
  br label %patient

patient:
  %looks = phi i32 [0, %closing], [%looks.more, %pausing], [%looks, %yield]
  %reported = load atomic i32, ptr %done seq_cst, align 4
  %complete = icmp eq i32 %reported, %expected
  br i1 %complete, label %free, label %waiting

waiting:
  %looks.more = add i32 %looks, 1
  %long = icmp ugt i32 %looks.more, {_PATIENCE}
  br i1 %long, label %yield, label %pausing

pausing:
  {pause}
  br label %patient

yield:
  %yielded = call i32 @sched_yield()
  br label %patient

free:
  {clock("now.ended")}
  store i64 %now.ended, ptr %ended
  store atomic i32 0, ptr %busy seq_cst, align 4
  br label %exit

exit:
  ret i32 0
}}

define i32 @{_STOP}_text(i64 %pool.word) {{
  %pool = inttoptr i64 %pool.word to ptr
{fields}
  store atomic i32 1, ptr %stop seq_cst, align 4
  %calls = atomicrmw add ptr %wake, i32 1 seq_cst
  %called = {futex}, i64 129, i64 2147483647)
  ret i32 0
}}
"""


class Pool:
    """Threads that take shares of jobs; one job at a time.

    A caller that finds the pool busy computes its job alone. The result never depends on who
    computed what. After `fork` the child has no workers until it asks for some.

    Attributes
    ----------
    run : callable
        run(address of the pool, address of a job) computes all shares of a `LoadedKernel.job`, as a
        ctypes function, which gives up Python's lock during the call.
    address : int
        Of the pool.

    Raises
    ------
    UnsupportedError
        `device` is of an architecture without 64-bit words.
    """

    def __init__(self, device: Device) -> None:
        if device.isa not in _FUTEX:
            accepted = ", ".join(isa.value for isa in _FUTEX)
            raise UnsupportedError(
                f"threads > 1 on {device.isa.value}: the pool of threads is written for {accepted}. "
                "Take threads=1."
            )
        target = Target(device.llvm_target())
        module = IRModule({})
        add_functions(module, _text(device.isa), {_RUN: 2, _WORK: 1, _STOP: 1}, target)
        built = llvm_module(finalize(module), target)
        pointer = ctypes.c_void_p
        self.run = c_function(built, _RUN, ctypes.c_int32, pointer, pointer)
        self._stop = c_function(built, _STOP, ctypes.c_int32, pointer)
        self._work = c_function(built, _WORK, ctypes.c_int32, pointer)
        self._words = scratch_memory(_LINE * len(_FIELDS))
        self._words[:] = 0
        self.address = self._words.ctypes.data
        self._libc = ctypes.CDLL(None)
        self._threads: list[ctypes.c_ulong] = []
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._end)

    def ensure(self, workers: int) -> None:
        """Start workers until there are as many."""
        if len(self._threads) >= workers:
            return
        with self._lock:
            # Python handles signals in its own threads.
            before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
            try:
                while len(self._threads) < workers:
                    thread = ctypes.c_ulong()
                    failed = self._libc.pthread_create(
                        ctypes.byref(thread), None, self._work, ctypes.c_void_p(self.address)
                    )
                    if failed:
                        raise OSError(failed, f"a thread cannot be started: {os.strerror(failed)}")
                    self._threads.append(thread)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _forget(self) -> None:
        """In the child of a fork, which has none of the threads and perhaps a job half done."""
        self._words[:] = 0
        self._threads = []
        self._lock = threading.Lock()

    def _end(self) -> None:
        """Let the workers end before the code they run is freed."""
        self._stop(self.address)
        for thread in self._threads:
            self._libc.pthread_join(thread, None)


@cache
def shared_pool(device: Device) -> Pool:
    """The one pool of this process for a device; it starts without workers."""
    return Pool(device)
