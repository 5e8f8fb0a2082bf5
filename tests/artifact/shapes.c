/* Runs the library `tiny` on images of 8, 4 and 12 rows in turn and compares with stored outputs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny.h"

static int failures;

static void *memory(size_t bytes)
{
    char *p = calloc(1, bytes + 128);
    return p + (64 - (uintptr_t)p % 64);
}

static void contents(const char *path, void *data, size_t bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file || fread(data, 1, bytes, file) != bytes || fgetc(file) != EOF) {
        printf("%s\n", path);
        exit(2);
    }
    fclose(file);
}

/* Vectors `number` and `number + 1` have the shape of `input`. */
static void check(tiny_ctx *ctx, tiny_tensor input, int number, size_t in, size_t classes, size_t map,
                  int32_t rows)
{
    float *expected = memory(4 * map);
    tiny_tensor outputs[2] = {{memory(4 * classes), {0}}, {memory(4 * map), {0}}};
    char path[64];
    int v, o;
    size_t i;
    for (v = number; v < number + 2; ++v) {
        snprintf(path, sizeof path, "test/vectors/v%d_input0.f32", v);
        contents(path, input.data, 4 * in);
        if (tiny_run(ctx, &input, outputs) != tiny_OK) {
            printf("vector %d is refused\n", v);
            ++failures;
        }
        for (o = 0; o < 2; ++o) {
            snprintf(path, sizeof path, "test/vectors/v%d_output%d.f32", v, o);
            contents(path, expected, 4 * (o ? map : classes));
            for (i = 0; i < (o ? map : classes); ++i)
                if (!(outputs[o].data[i] - expected[i] < 1e-5f &&
                      expected[i] - outputs[o].data[i] < 1e-5f))
                    ++failures;
        }
        if (outputs[0].dims[1] != 5 || outputs[1].dims[2] != rows || outputs[1].dims[3] != 6)
            ++failures;
    }
}

int main(void)
{
    static const int32_t stray[3][4] = {{1, 3, 6, 6}, {1, 3, 6, 4}, {1, 12, 3, 6}};
    void *weights = memory(tiny_WEIGHTS_BYTES);
    float *x = memory(4 * tiny_INPUT0_MAX_SIZE);
    tiny_tensor eight = {x, tiny_INPUT0_DIMS}, four = {x, tiny_SHAPE1_INPUT0_DIMS},
                twelve = {x, tiny_SHAPE2_INPUT0_DIMS}, wrong = eight, outputs[2] = {{x, {0}}, {x, {0}}};
    tiny_ctx ctx;
    int k;
    contents("src/tiny_weights.bin", weights, tiny_WEIGHTS_BYTES);
    if (tiny_SHAPES != 3 || tiny_INPUT0_MAX_SIZE != tiny_SHAPE2_INPUT0_SIZE ||
        tiny_OUTPUT0_MAX_SIZE != 5 || tiny_OUTPUT1_MAX_SIZE != tiny_SHAPE2_OUTPUT1_SIZE)
        ++failures;
    if (tiny_init(&ctx, weights, tiny_WEIGHTS_BYTES, memory(tiny_WORKSPACE_BYTES(1)),
                  tiny_WORKSPACE_BYTES(1)) != tiny_OK)
        return 3;
    for (k = 0; k < 2; ++k) { /* the second time after the other shapes have used the workspace */
        check(&ctx, eight, 0, tiny_INPUT0_SIZE, tiny_OUTPUT0_SIZE, tiny_OUTPUT1_SIZE, 8);
        check(&ctx, four, 2, tiny_SHAPE1_INPUT0_SIZE, tiny_SHAPE1_OUTPUT0_SIZE,
              tiny_SHAPE1_OUTPUT1_SIZE, 4);
        check(&ctx, twelve, 4, tiny_SHAPE2_INPUT0_SIZE, tiny_SHAPE2_OUTPUT0_SIZE,
              tiny_SHAPE2_OUTPUT1_SIZE, 12);
    }
    for (k = 0; k < 3; ++k) {
        memcpy(wrong.dims, stray[k], sizeof wrong.dims);
        if (tiny_run(&ctx, &wrong, outputs) != tiny_E_SHAPE || outputs[0].dims[0])
            ++failures;
    }
    puts(tiny_status_text(tiny_E_SHAPE));
    puts(failures ? "FAIL" : "PASS");
    return failures != 0;
}
