/* As many floats at a time as a register holds, bfloat16 to float and back, and an exponential that vectorises. */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));
typedef floats floats_any __attribute__((aligned(4), may_alias));
typedef halves halves_any __attribute__((aligned(2), may_alias));
typedef uint16_t bf16;

#define LANES 16 /* floats: what lengths are padded to */
#define ALWAYS static inline __attribute__((always_inline))
#define PADDED(n) (((n) + LANES - 1) / LANES * LANES)

ALWAYS float up_f32(float x) { return x; }
ALWAYS float down_f32(float x) { return x; }
ALWAYS floats load_f32(const float *p) { return *(const floats_any *)p; }

ALWAYS float up_bf16(bf16 x) {
    union { uint32_t u; float f; } v = {(uint32_t)x << 16};
    return v.f;
}
ALWAYS bf16 down_bf16(float x) { /* to nearest, ties to even, as torch does */
    union { float f; uint32_t u; } v = {x};
    return (bf16)((v.u + 0x7fff + ((v.u >> 16) & 1)) >> 16);
}
ALWAYS floats load_bf16(const bf16 *p) {
    return (floats)(__builtin_convertvector(*(const halves_any *)p, words) << 16);
}

ALWAYS void store(float *p, floats v) { *(floats_any *)p = v; }
ALWAYS floats all(float x) { return x - (floats){}; }

/* exp(x) to about 2 units in the last place; 0 below -87. Cephes' polynomial on |r| <= log(2) / 2. */
ALWAYS float exponential(float x) {
    float bounded = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    union { float f; uint32_t u; } power = {bounded * 1.44269504088896341f + 12582912.0f}; /* n in its lowest bits */
    float n = power.f - 12582912.0f; /* the nearest whole number */
    float r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    power.u = (power.u + 127) << 23; /* 2^n */
    return x < -87.0f ? 0.0f : y * power.f;
}

/* Scratch memory of one thread, handed out in aligned pieces. */
typedef struct { char *at; } arena;
ALWAYS float *take(arena *a, long floats) {
    float *p = (float *)a->at;
    a->at += PADDED(floats) * sizeof(float);
    return p;
}

typedef struct { long start, length, prompt_start, prompt_length; } segment;
typedef struct { long first, num; } branches;      /* those of a stem; all stems come first */
typedef struct { long first, num, prompt; } crew;  /* neighbouring rows with one prompt, few enough for the cache */

#define PANEL 64 /* keys that lie together when they are transposed, see product.h */
#define PANELED(n) (((n) + PANEL - 1) / PANEL * PANEL)
#define SHARES 32 /* parts that a sum over rows is cut into, whatever the number of threads */
#define QUERIES 16 /* of one head, computed at once */
#define STRIPE 1024 /* of the vocabulary, summed in float */

ALWAYS void sum_shares(const float *partial, float *sum, long width) {
    memset(sum, 0, width * sizeof(float));
    for (int share = 0; share < SHARES; share++)
        for (long i = 0; i < width; i++) sum[i] += partial[share * width + i];
}
