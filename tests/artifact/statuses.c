/* Provokes every status of the library `tiny` and prints the ones that are not as documented. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny.h"

static int failures;

static void expect(tiny_status seen, tiny_status wanted, const char *what)
{
    if (seen != wanted) {
        printf("%s: \"%s\" instead of \"%s\"\n", what, tiny_status_text(seen), tiny_status_text(wanted));
        ++failures;
    }
}

static char *memory(size_t bytes)
{
    char *p = malloc(bytes + 128);
    return p + (64 - (uintptr_t)p % 64);
}

static int32_t layers;
static size_t layer_bytes;

static void on_layer(void *user, int32_t index, const float *data, size_t bytes)
{
    if (user != &layers || index != layers || !data)
        ++failures;
    ++layers;
    layer_bytes += bytes;
}

static int32_t tasks_seen;

/* The last task first, slots in turn: as unlike a simple loop as the contract allows. */
static void reverse_for(void *user, int32_t tasks, tiny_task *fn, void *arg)
{
    (void)user;
    tasks_seen += tasks;
    for (int32_t task = tasks - 1; task >= 0; --task)
        fn(arg, task, task % 3);
}

int main(int argc, char **argv)
{
    size_t size = tiny_WEIGHTS_BYTES, need = tiny_WORKSPACE_BYTES(1);
    char *weights = memory(size + 64), *workspace = memory(need + 64);
    float *x = (float *)memory(4 * tiny_INPUT0_SIZE + 4), *y = (float *)memory(4 * tiny_OUTPUT0_SIZE);
    float *z = (float *)memory(4 * tiny_OUTPUT1_SIZE);
    tiny_tensor input = {x, tiny_INPUT0_DIMS}, outputs[2] = {{y, {0}}, {z, {0}}}, wrong;
    tiny_ctx ctx;
    FILE *file = fopen(argc > 1 ? argv[1] : "src/tiny_weights.bin", "rb");
    if (!file || fread(weights, 1, size, file) != size)
        return 2;
    memset(x, 0, 4 * tiny_INPUT0_SIZE);

    expect(tiny_init(NULL, weights, size, workspace, need), tiny_E_NULL, "no context");
    expect(tiny_init(&ctx, NULL, size, workspace, need), tiny_E_NULL, "no weights");
    expect(tiny_init(&ctx, weights, size, NULL, need), tiny_E_NULL, "no workspace");
    expect(tiny_init(&ctx, weights, size - 1, workspace, need), tiny_E_WEIGHTS_SIZE, "truncated");
    expect(tiny_init(&ctx, weights, size + 1, workspace, need), tiny_E_WEIGHTS_SIZE, "too long");
    memmove(weights + 4, weights, size);
    expect(tiny_init(&ctx, weights + 4, size, workspace, need), tiny_E_WEIGHTS_ALIGNMENT, "misaligned");
    memmove(weights, weights + 4, size);
    weights[0] ^= 1;
    expect(tiny_init(&ctx, weights, size, workspace, need), tiny_E_WEIGHTS_FORMAT, "magic");
    weights[0] ^= 1;
    weights[8] ^= 2;
    expect(tiny_init(&ctx, weights, size, workspace, need), tiny_E_WEIGHTS_FORMAT, "version");
    weights[8] ^= 2;
    weights[63] ^= 1;
    expect(tiny_init(&ctx, weights, size, workspace, need), tiny_E_WEIGHTS_BUILD, "other build");
    weights[63] ^= 1;
    weights[size - 1] ^= 1;
    expect(tiny_init(&ctx, weights, size, workspace, need), tiny_E_WEIGHTS_CHECKSUM, "last byte");
    weights[size - 1] ^= 1;
    weights[64] ^= 1;
    expect(tiny_init(&ctx, weights, size, workspace, need), tiny_E_WEIGHTS_CHECKSUM, "first byte");
    expect(tiny_run(&ctx, &input, outputs), tiny_E_CONTEXT, "run after a failed init");
    weights[64] ^= 1;
    expect(tiny_init(&ctx, weights, size, workspace, need - 1), tiny_E_WORKSPACE_SIZE, "workspace");
    expect(tiny_init(&ctx, weights, size, workspace + 4, need), tiny_E_WORKSPACE_ALIGNMENT, "workspace");
    expect(tiny_init(&ctx, weights, size, workspace, need), tiny_OK, "all well");

    expect(tiny_run(NULL, &input, outputs), tiny_E_NULL, "run without context");
    expect(tiny_run(&ctx, NULL, outputs), tiny_E_NULL, "run without inputs");
    expect(tiny_run(&ctx, &input, NULL), tiny_E_NULL, "run without outputs");
    ctx.threads = 0;
    expect(tiny_run(&ctx, &input, outputs), tiny_E_THREADS, "no threads");
    ctx.threads = tiny_MAX_THREADS + 1;
    expect(tiny_run(&ctx, &input, outputs), tiny_E_THREADS, "too many threads");
    ctx.threads = 2;
    expect(tiny_run(&ctx, &input, outputs), tiny_E_WORKSPACE_SIZE, "workspace of one thread");
    ctx.threads = 1;
    wrong = input;
    wrong.data = NULL;
    expect(tiny_run(&ctx, &wrong, outputs), tiny_E_NULL, "no input data");
    wrong = input;
    wrong.dims[3] += 1;
    expect(tiny_run(&ctx, &wrong, outputs), tiny_E_SHAPE, "dims");
    wrong = input;
    wrong.data += 1;
    expect(tiny_run(&ctx, &wrong, outputs), tiny_E_DATA_ALIGNMENT, "misaligned input");
    if (outputs[0].dims[0] != 0)
        ++failures; /* nothing may be written by a run that fails */

    ctx.on_layer = on_layer;
    ctx.user = &layers;
    expect(tiny_run(&ctx, &input, outputs), tiny_OK, "run");
    if (layers != 5 || layer_bytes != 4 * (144 + 768 + 16 + 5 + 768)) {
        printf("%d layers of %lu bytes\n", (int)layers, (unsigned long)layer_bytes);
        ++failures;
    }
    if (outputs[0].dims[0] != 1 || outputs[0].dims[1] != 5 || outputs[0].dims[3] != 1 ||
        outputs[1].dims[1] != 16) {
        puts("output dims");
        ++failures;
    }
    {
        size_t i, more = tiny_WORKSPACE_BYTES(3);
        float *again = (float *)memory(4 * tiny_OUTPUT1_SIZE);
        for (i = 0; i < tiny_INPUT0_SIZE; ++i)
            x[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
        ctx.on_layer = NULL;
        expect(tiny_run(&ctx, &input, outputs), tiny_OK, "one thread");
        memcpy(again, z, 4 * tiny_OUTPUT1_SIZE);
        memset(z, 0, 4 * tiny_OUTPUT1_SIZE);
        expect(tiny_init(&ctx, weights, size, memory(more), more), tiny_OK, "three slots");
        ctx.threads = 3;
        ctx.parallel_for = reverse_for;
        expect(tiny_run(&ctx, &input, outputs), tiny_OK, "three slots");
        if (tasks_seen != 8 + 8 + 8 || memcmp(again, z, 4 * tiny_OUTPUT1_SIZE) != 0) {
            printf("%d tasks, or other values\n", (int)tasks_seen);
            ++failures;
        }
    }
    if (tiny_workspace_bytes(0) || tiny_workspace_bytes(tiny_MAX_THREADS + 1) ||
        tiny_workspace_bytes(3) != tiny_WORKSPACE_BYTES(3)) {
        puts("workspace bytes");
        ++failures;
    }
    if (!strstr(tiny_status_text(tiny_E_SHAPE), "1 x 3 x 8 x 6")) {
        puts("E_SHAPE does not name what is accepted");
        ++failures;
    }
    puts(failures ? "FAIL" : "PASS");
    return failures != 0;
}
