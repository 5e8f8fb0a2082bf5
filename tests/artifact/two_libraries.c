/* Two libraries in one program that has a `helper` of its own, as each of them has inside. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "other.h"
#include "tiny.h"

float helper(float v);
float helper(float v) { return v + 1000.0f; }

static void *memory(size_t bytes)
{
    char *p = calloc(1, bytes + 128);
    return p + (64 - (uintptr_t)p % 64);
}

static void *contents(const char *path, size_t bytes)
{
    void *p = memory(bytes);
    FILE *file = fopen(path, "rb");
    if (!file || fread(p, 1, bytes, file) != bytes)
        exit(2);
    fclose(file);
    return p;
}

int main(int argc, char **argv)
{
    void *x = contents(argv[3], 4 * tiny_INPUT0_SIZE);
    tiny_tensor a_in = {NULL, tiny_INPUT0_DIMS}, a_out[2];
    other_tensor b_in = {NULL, other_INPUT0_DIMS}, b_out[2];
    tiny_ctx a;
    other_ctx b;
    if (argc != 4)
        return 2;
    a_in.data = b_in.data = x;
    a_out[0].data = memory(4 * tiny_OUTPUT0_SIZE);
    a_out[1].data = memory(4 * tiny_OUTPUT1_SIZE);
    b_out[0].data = memory(4 * other_OUTPUT0_SIZE);
    b_out[1].data = memory(4 * other_OUTPUT1_SIZE);
    if (tiny_init(&a, contents(argv[1], tiny_WEIGHTS_BYTES), tiny_WEIGHTS_BYTES,
                  memory(tiny_WORKSPACE_BYTES(1)), tiny_WORKSPACE_BYTES(1)) ||
        other_init(&b, contents(argv[2], other_WEIGHTS_BYTES), other_WEIGHTS_BYTES,
                   memory(other_WORKSPACE_BYTES(1)), other_WORKSPACE_BYTES(1)))
        return 3;
    if (tiny_run(&a, &a_in, a_out) || other_run(&b, &b_in, b_out) || tiny_run(&a, &a_in, a_out))
        return 4;
    printf("%.9g %.9g %.9g\n", (double)helper(1.0f), (double)a_out[0].data[2], (double)b_out[0].data[2]);
    return 0;
}
