/* Kernels of the tests' tiny network, with the C interface of compiled ones. */
#include <math.h>
#include <stdint.h>

/* Rows of the image, and the names in this file: the tests compile it once for each height. */
#ifndef HEIGHT
#define HEIGHT 8
#define KERNEL(number) parc_k##number
#define HELPER helper
#endif
enum { PIXELS = HEIGHT * 6 };

/* Global on purpose: every library of the tests has one, and so has the program they link into. */
float HELPER(float v) { return expf(-v); }

/* y[h][w][c] = x[c][h][w] * scale[c], rows h in [begin, end). */
int32_t KERNEL(0)(const float *x, const float *scale, float *y, int32_t begin, int32_t end)
{
    for (int32_t h = begin; h < end; ++h)
        for (int w = 0; w < 6; ++w)
            for (int c = 0; c < 3; ++c)
                y[(h * 6 + w) * 3 + c] = x[(c * HEIGHT + h) * 6 + w] * scale[c];
    return 0;
}

/* y[h][w][o] = sigmoid(x[h][w] . weight + bias); sums go through the scratch. */
int32_t KERNEL(1)(const float *x, const float *weight, const float *bias, float *y, int32_t begin,
                int32_t end, float *sums)
{
    for (int32_t h = begin; h < end; ++h) {
        for (int w = 0; w < 6; ++w)
            for (int o = 0; o < 16; ++o) {
                sums[w * 16 + o] = bias[o];
                for (int c = 0; c < 3; ++c)
                    sums[w * 16 + o] += x[(h * 6 + w) * 3 + c] * weight[c * 16 + o];
            }
        for (int i = 0; i < 6 * 16; ++i)
            y[h * 6 * 16 + i] = 1.0f / (1.0f + HELPER(sums[i]));
    }
    return 0;
}

/* y[o] = mean over h, w. */
int32_t KERNEL(2)(const float *x, float *y)
{
    for (int o = 0; o < 16; ++o) {
        float sum = 0;
        for (int i = 0; i < PIXELS; ++i)
            sum += x[i * 16 + o];
        y[o] = sum / (float)PIXELS;
    }
    return 0;
}

/* y = x . weight, through a scratch that is not divided. */
int32_t KERNEL(3)(const float *x, const float *weight, float *y, float *sums)
{
    for (int k = 0; k < 5; ++k) {
        sums[k] = 0;
        for (int o = 0; o < 16; ++o)
            sums[k] += x[o] * weight[o * 5 + k];
        y[k] = sums[k];
    }
    return 0;
}

/* y[o][h][w] = x[h][w][o], channels o in [begin, end). */
int32_t KERNEL(4)(const float *x, float *y, int32_t begin, int32_t end)
{
    for (int32_t o = begin; o < end; ++o)
        for (int i = 0; i < PIXELS; ++i)
            y[o * PIXELS + i] = x[i * 16 + o];
    return 0;
}
