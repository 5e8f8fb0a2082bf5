/* Which of two kernels is faster on this machine? Each is linked in with its constants; times are
 * taken in turn, so that whatever else the machine does meets both.
 *
 *     measure INPUTS SECONDS WIDTH TIMEOUT CPU THREADS CANDIDATE...   candidates beside number 0
 *     measure INPUTS run OUTPUT BEGIN END [BEGIN END ...]             number 0 once, on these tasks
 *
 * Every candidate is measured in a process of its own, so that one that crashes or hangs costs itself
 * alone. The answer is one line of JSON each. A kernel is right when its result is that of number 0,
 * up to the sum of both tolerances, and when it writes nowhere else.
 *
 * INPUTS is a file: the number of tensors and their sizes, as 64-bit words, then their float32
 * values. `run` writes the counters of an instrumented kernel as 64-bit words, then its result.
 */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 16, ALIGNMENT = 64, GUARD = 64, ROUNDS = 4000, PLACES = 8, TASKS_PER_THREAD = 4 };
static const double SLICE_S = 0.0005;   /* long against a look at the clock, short against drift */
static const double WARM_S = 0.002;     /* a call that is longer warms its caches itself */
static const double Z = 2.58;           /* of the interval; it is looked at after every round */

typedef union { void *at; uint64_t word; } pointer;

typedef struct {
    pointer function, constants, runs; /* runs: counters of an instrumented kernel, or 0 */
    int64_t blocks, extent, scratch_bytes, inputs, constant_count, output_size;
    double tolerance;
    int64_t input[MOST], constant_size[MOST];
} candidate;

extern const pointer __start_parc_candidates[] __attribute__((visibility("hidden")));
extern const pointer __stop_parc_candidates[] __attribute__((visibility("hidden")));

typedef struct { float *at; size_t size; } buffer;
typedef struct {
    const candidate *about;
    void *arguments[2 * MOST + 1];
    buffer constants, output;
    unsigned char *scratch;
    int32_t threads;
    void *pool;
} kernel;

enum { OK, WRONG, FAILED };
enum { STATUS, LOW, MID, HIGH, SECONDS, SECONDS_FIRST, TURNS, CALLS, AT, SEEN, EXPECTED, ALLOWED,
       HZ_BEFORE, HZ_AFTER, CELSIUS, SIGNAL, STARTED, RESULTS };

/* ------------------------------------------------------------------ calling */

typedef void *P;
#define A1 P
#define A2 A1, P
#define A3 A2, P
#define A4 A3, P
#define A5 A4, P
#define A6 A5, P
#define A7 A6, P
#define A8 A7, P
#define A9 A8, P
#define A10 A9, P
#define A11 A10, P
#define A12 A11, P
#define A13 A12, P
#define A14 A13, P
#define A15 A14, P
#define A16 A15, P
#define V1 b[0]
#define V2 V1, b[1]
#define V3 V2, b[2]
#define V4 V3, b[3]
#define V5 V4, b[4]
#define V6 V5, b[5]
#define V7 V6, b[6]
#define V8 V7, b[7]
#define V9 V8, b[8]
#define V10 V9, b[9]
#define V11 V10, b[10]
#define V12 V11, b[11]
#define V13 V12, b[12]
#define V14 V13, b[13]
#define V15 V14, b[14]
#define V16 V15, b[15]
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        if (!ranged && !scratch)                                                                   \
            return ((int32_t(*)(A##n))f)(V##n);                                                    \
        if (!ranged)                                                                               \
            return ((int32_t(*)(A##n, P))f)(V##n, scratch);                                        \
        if (!scratch)                                                                              \
            return ((int32_t(*)(A##n, int32_t, int32_t))f)(V##n, begin, end);                      \
        return ((int32_t(*)(A##n, int32_t, int32_t, P))f)(V##n, begin, end, scratch);

static int32_t call_range(const kernel *k, int32_t begin, int32_t end, void *scratch)
{
    void *f = k->about->function.at, *const *b = k->arguments;
    int ranged = k->about->extent > 0;
    switch (k->about->inputs + k->about->constant_count + 1) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
        CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14) CASE(15) CASE(16)
    }
    return -1;
}

typedef struct parc_pool parc_pool;
parc_pool *parc_pool_start(int threads);
void parc_pool_for(void *pool, int32_t tasks, void (*fn)(void *, int32_t, int32_t), void *arg);

typedef struct { const kernel *k; int32_t step; } job;

static size_t scratch_step(const candidate *c)
{
    return ((size_t)c->scratch_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void do_task(void *arg, int32_t task, int32_t slot)
{
    const job *j = (const job *)arg;
    const candidate *c = j->k->about;
    int32_t begin = task * j->step, left = (int32_t)c->extent - begin;
    void *scratch = c->scratch_bytes ? j->k->scratch + (size_t)slot * scratch_step(c) : NULL;
    call_range(j->k, begin, begin + (left < j->step ? left : j->step), scratch);
}

static int32_t call(const kernel *k)
{
    int32_t extent = (int32_t)k->about->extent, most = TASKS_PER_THREAD * k->threads;
    job j = {k, 0};
    if (k->threads < 2 || extent < 2)
        return call_range(k, 0, extent, k->scratch);
    j.step = (extent - 1) / most + 1;
    parc_pool_for(k->pool, (extent - 1) / j.step + 1, do_task, &j);
    return 0;
}

/* ------------------------------------------------------------------ memory */

static void refuse(const char *what)
{
    fprintf(stderr, "measure: %s\n", what);
    exit(3);
}

static void *memory(size_t bytes)
{
    void *made = NULL;
    bytes = (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    if (posix_memalign(&made, ALIGNMENT, bytes))
        refuse("no memory");
    memset(made, 0xff, bytes); /* not a number, wherever nothing is written */
    return made;
}

static int read_inputs(const char *path, buffer *inputs)
{
    int64_t head[1 + MOST];
    int i;
    FILE *f = fopen(path, "rb");
    if (!f || fread(head, 8, 1, f) != 1 || head[0] < 0 || head[0] > MOST ||
        fread(head + 1, 8, (size_t)head[0], f) != (size_t)head[0])
        refuse("the file of inputs cannot be read");
    for (i = 0; i < head[0]; ++i) {
        inputs[i].size = (size_t)head[1 + i];
        inputs[i].at = (float *)memory(4 * inputs[i].size);
        if (fread(inputs[i].at, 4, inputs[i].size, f) != inputs[i].size)
            refuse("the file of inputs is too short");
    }
    fclose(f);
    return (int)head[0];
}

/* `place`: where its memory begins within a page. How two kernels' data happen to lie makes a percent;
 * rounds take turns with the places, so that it is in the interval. */
static kernel prepare(const candidate *c, const buffer *inputs, int count, int threads, void *pool,
                      int place)
{
    size_t shift = (size_t)(place * 7 % 64) * ALIGNMENT;
    kernel k;
    size_t total = 0, copied = 0;
    int i, n = 0;
    memset(&k, 0, sizeof k);
    k.about = c;
    k.threads = threads;
    k.pool = pool;
    for (i = 0; i < c->inputs; ++i) {
        if (c->input[i] >= count)
            refuse("the kernel reads an input that is not there");
        k.arguments[n++] = inputs[c->input[i]].at;
    }
    for (i = 0; i < c->constant_count; ++i)
        total += ((size_t)c->constant_size[i] * 4 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    k.constants.at = (float *)((unsigned char *)memory(total + shift) + shift);
    k.constants.size = total / 4;
    memcpy(k.constants.at, c->constants.at, total);
    for (i = 0; i < c->constant_count; ++i) {
        k.arguments[n++] = (unsigned char *)k.constants.at + copied;
        copied += ((size_t)c->constant_size[i] * 4 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    k.output.size = (size_t)c->output_size;
    if (place == 0)
        k.output.at = (float *)memory(4 * (k.output.size + 2 * GUARD)) + GUARD;
    k.arguments[n] = k.output.at;
    if (c->scratch_bytes)
        k.scratch = (unsigned char *)memory(scratch_step(c) * (size_t)threads + 4 * GUARD + shift) + shift;
    return k;
}

/* ------------------------------------------------------------------ comparing */

static int bytes_changed(const void *from, const void *to)
{
    const unsigned char *b;
    for (b = (const unsigned char *)from; b < (const unsigned char *)to; ++b)
        if (*b != 0xff)
            return 1;
    return 0;
}

static int wrote_outside(const kernel *k)
{
    const unsigned char *after = k->scratch + scratch_step(k->about) * (size_t)k->threads;
    const float *o = k->output.at;
    return bytes_changed(o - GUARD, o) || bytes_changed(o + k->output.size, o + k->output.size + GUARD) ||
           (k->scratch && bytes_changed(after, after + 4 * GUARD));
}

static void compare(const kernel *k, const kernel *first, double *result)
{
    double allowed = k->about->tolerance + first->about->tolerance;
    size_t i;
    result[ALLOWED] = allowed;
    for (i = 0; i < first->output.size; ++i) {
        double seen = k->output.at[i], expected = first->output.at[i];
        /* not `>`, which a NaN passes; equal infinities agree */
        if (seen != expected && !(fabs(seen - expected) <= allowed)) {
            result[STATUS] = WRONG;
            result[AT] = (double)i;
            result[SEEN] = seen;
            result[EXPECTED] = expected;
            return;
        }
    }
    if (wrote_outside(k)) {
        result[STATUS] = WRONG;
        result[AT] = -1;
    }
}

/* ------------------------------------------------------------------ time */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double slice(const kernel *k, int calls, double call_s)
{
    double began;
    int i;
    if (call_s < WARM_S)
        call(k);
    began = now();
    for (i = 0; i < calls; ++i)
        call(k);
    return (now() - began) / calls;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of logarithms and an interval of it, from order statistics. */
static void interval(const double *logs, int n, double *result)
{
    static double sorted[ROUNDS];
    int from;
    memcpy(sorted, logs, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    from = (int)floor((n - Z * sqrt((double)n)) / 2);
    if (from < 0)
        from = 0;
    result[LOW] = exp(sorted[from]);
    result[HIGH] = exp(sorted[n - 1 - from]);
    result[MID] = exp((sorted[(n - 1) / 2] + sorted[n / 2]) / 2);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

static double number_in(const char *pattern, int cpu, double scale)
{
    char path[128];
    double value = -1;
    FILE *f;
    snprintf(path, sizeof path, pattern, cpu);
    f = fopen(path, "r");
    if (!f)
        return -1;
    if (fscanf(f, "%lf", &value) != 1)
        value = -1;
    fclose(f);
    return value < 0 ? -1 : value * scale;
}

static double frequency(int cpu)
{
    return number_in("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq", cpu, 1e3);
}

/* Measure until the interval is narrower than `width`, the candidate is clearly slower, or time is up. */
static void take_times(kernel pair[2][PLACES], double seconds, double width, double *result)
{
    static double logs[ROUNDS], times[2][ROUNDS], scratch[ROUNDS];
    double once[2], began = now();
    int calls[2], n, i;
    for (i = 0; i < 2; ++i) {
        call(&pair[i][0]);
        once[i] = now();
        call(&pair[i][0]);
        once[i] = now() - once[i];
        calls[i] = once[i] >= SLICE_S ? 1 : (int)(SLICE_S / (once[i] > 1e-8 ? once[i] : 1e-8)) + 1;
    }
    for (n = 0; n < ROUNDS;) {
        int order = (n / PLACES + n) & 1; /* who comes first takes turns */
        for (i = 0; i < 2; ++i) {
            int who = order ^ i;
            times[who][n] = slice(&pair[who][n % PLACES], calls[who], once[who]);
        }
        logs[n] = log(times[1][n] / times[0][n]);
        ++n;
        if (n < PLACES)
            continue;
        interval(logs, n, result);
        if ((result[LOW] > 1.02 && n >= 2 * PLACES) || result[HIGH] / result[LOW] < 1 + width || now() - began > seconds)
            break;
    }
    for (i = 0; i < 2; ++i) {
        memcpy(scratch, times[i], (size_t)n * sizeof *scratch);
        result[i ? SECONDS : SECONDS_FIRST] = median(scratch, n);
    }
    result[TURNS] = n;
    result[CALLS] = calls[1];
}

/* ------------------------------------------------------------------ one candidate */

typedef struct { const char *inputs; double seconds, width; int timeout_s, cpu, threads; } options;

static const candidate *numbered(int number)
{
    if (number < 0 || number >= (int)(__stop_parc_candidates - __start_parc_candidates))
        refuse("there is no such candidate");
    return (const candidate *)__start_parc_candidates[number].at;
}

static void measure_here(int number, const options *o, double *result, int report)
{
    buffer inputs[MOST];
    kernel first, k, pair[2][PLACES];
    void *pool = NULL;
    int count, i, who;
    if (o->cpu >= 0 && o->threads == 1) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(o->cpu, &set);
        sched_setaffinity(0, sizeof set, &set); /* a board may lack it; then it is measured unpinned */
    }
    if (o->threads > 1 && !(pool = parc_pool_start(o->threads)))
        refuse("the threads cannot be started");
    count = read_inputs(o->inputs, inputs);
    first = prepare(numbered(0), inputs, count, o->threads, pool, 0);
    k = prepare(numbered(number), inputs, count, o->threads, pool, 0);
    if (first.output.size != k.output.size)
        refuse("the results differ in size");
    alarm((unsigned)o->timeout_s);
    if (call(&first)) {
        result[STATUS] = FAILED;
        return;
    }
    /* From here on a failure is the candidate's. */
    result[STARTED] = 1;
    if (write(report, result, RESULTS * sizeof *result) != (ssize_t)(RESULTS * sizeof *result))
        refuse("the pipe is closed");
    if (call(&k)) {
        result[STATUS] = FAILED;
        return;
    }
    compare(&k, &first, result);
    alarm(0);
    if (result[STATUS] != OK)
        return;
    alarm((unsigned)(o->timeout_s + 4 * (int)(o->seconds + 1)));
    result[HZ_BEFORE] = frequency(o->cpu < 0 ? 0 : o->cpu);
    for (who = 0; who < 2; ++who) {
        const candidate *c = who ? k.about : first.about;
        for (i = 0; i < PLACES; ++i) {
            pair[who][i] = prepare(c, inputs, count, o->threads, pool, 1 + 3 * who + i);
            /* both write one output: pages and caches treat them alike */
            pair[who][i].arguments[c->inputs + c->constant_count] = first.output.at;
        }
    }
    take_times(pair, o->seconds, o->width, result);
    alarm(0);
    result[HZ_AFTER] = frequency(o->cpu < 0 ? 0 : o->cpu);
    result[CELSIUS] = number_in("/sys/class/thermal/thermal_zone%d/temp", 0, 1e-3);
}

/* In a process of its own; its end tells what became of it. */
static void measure_apart(int number, const options *o, double *result)
{
    int ends[2], status = 0, i;
    pid_t child;
    for (i = 0; i < RESULTS; ++i)
        result[i] = 0;
    if (pipe(ends) || (child = fork()) < 0) {
        result[STATUS] = FAILED;
        return;
    }
    if (child == 0) {
        close(ends[0]);
        signal(SIGALRM, SIG_DFL);
        measure_here(number, o, result, ends[1]);
        if (write(ends[1], result, RESULTS * sizeof *result) < 0)
            _exit(4);
        _exit(0);
    }
    close(ends[1]);
    while (read(ends[0], result, RESULTS * sizeof *result) == (ssize_t)(RESULTS * sizeof *result))
        ;
    close(ends[0]);
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        result[SIGNAL] = WTERMSIG(status);
    else if (WEXITSTATUS(status))
        result[STATUS] = FAILED;
}

#ifdef PARC_SHARED

/* For TVM's RPC server: a packed function (int candidate, str inputs, float seconds, float width, int
 * timeout, int cpu, int threads) measures and returns 0; parc_result(int i) returns a number of it. */
typedef struct {
    int32_t type_index;
    uint32_t small_length;
    union { int64_t v_int64; double v_float64; void *v_ptr; const char *v_c_str; char v_bytes[8]; };
} tvm_any;
enum { TVM_INT = 1, TVM_FLOAT = 3, TVM_RAW_STR = 8, TVM_SMALL_STR = 11, TVM_STR = 65 };
typedef struct { uint64_t count; int32_t type, padding; void *deleter; const char *data; size_t size; }
    tvm_string;

static double measured[RESULTS];

static double number_of(const tvm_any *a)
{
    return a->type_index == TVM_FLOAT ? a->v_float64 : (double)a->v_int64;
}

int __tvm_ffi_parc_measure(void *self, const tvm_any *a, int32_t count, tvm_any *result)
{
    static char path[4096];
    options o;
    (void)self;
    if (count != 7)
        return -1;
    memset(path, 0, sizeof path);
    if (a[1].type_index == TVM_RAW_STR)
        strncpy(path, a[1].v_c_str, sizeof path - 1);
    else if (a[1].type_index == TVM_SMALL_STR)
        memcpy(path, a[1].v_bytes, a[1].small_length < 8 ? a[1].small_length : 7);
    else if (a[1].type_index == TVM_STR)
        strncpy(path, ((const tvm_string *)a[1].v_ptr)->data, sizeof path - 1);
    else
        return -1;
    o.inputs = path;
    o.seconds = number_of(&a[2]);
    o.width = number_of(&a[3]);
    o.timeout_s = (int)number_of(&a[4]);
    o.cpu = (int)number_of(&a[5]);
    o.threads = (int)number_of(&a[6]);
    measure_apart((int)number_of(&a[0]), &o, measured);
    result->type_index = TVM_INT;
    result->small_length = 0;
    result->v_int64 = 0;
    return 0;
}

int __tvm_ffi_parc_result(void *self, const tvm_any *a, int32_t count, tvm_any *result)
{
    int64_t i = count == 1 ? a[0].v_int64 : -1;
    (void)self;
    if (i < 0 || i >= RESULTS)
        return -1;
    result->type_index = TVM_FLOAT;
    result->small_length = 0;
    result->v_float64 = measured[i];
    return 0;
}

#else

static void print(int number, const double *result)
{
    int i;
    printf("{\"candidate\": %d, \"result\": [", number);
    for (i = 0; i < RESULTS; ++i)
        if (isfinite(result[i]))
            printf("%s%.17g", i ? ", " : "", result[i]);
        else
            printf("%snull", i ? ", " : "");
    printf("]}\n");
    fflush(stdout);
}

static int run_once(int argc, char **argv)
{
    buffer inputs[MOST];
    const candidate *c = numbered(0);
    kernel k = prepare(c, inputs, read_inputs(argv[1], inputs), 1, NULL, 0);
    FILE *f;
    int i;
    if (c->extent == 0 && call(&k))
        return 5;
    for (i = 4; c->extent && i + 1 < argc; i += 2)
        if (call_range(&k, atoi(argv[i]), atoi(argv[i + 1]), k.scratch))
            return 5;
    f = fopen(argv[3], "wb");
    if (!f || (c->blocks && fwrite(c->runs.at, 8, (size_t)c->blocks, f) != (size_t)c->blocks) ||
        fwrite(k.output.at, 4, k.output.size, f) != k.output.size || fclose(f))
        return 6;
    return 0;
}

int main(int argc, char **argv)
{
    options o;
    double result[RESULTS];
    int i;
    if (argc >= 4 && !strcmp(argv[2], "run"))
        return run_once(argc, argv);
    if (argc < 8) {
        fprintf(stderr, "usage: measure INPUTS SECONDS WIDTH TIMEOUT CPU THREADS CANDIDATE...\n");
        return 2;
    }
    o.inputs = argv[1];
    o.seconds = atof(argv[2]);
    o.width = atof(argv[3]);
    o.timeout_s = atoi(argv[4]);
    o.cpu = atoi(argv[5]);
    o.threads = atoi(argv[6]);
    for (i = 7; i < argc; ++i) {
        measure_apart(atoi(argv[i]), &o, result);
        print(atoi(argv[i]), result);
    }
    return 0;
}

#endif
