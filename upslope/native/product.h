/* C[m][n] (=, or += if `add`) sum_k A(m, k) B(k, n), the product inside attention. A(m, k) stands at A[m * row + k *
   column], so A may be read transposed. B(k, n) stands at B[(n / 64) * panel + k * ldb + n % 64]: panels of 64 columns
   keep what is read together close together, while plain rows of length ldb are panels that are 64 apart. */

/* As many sums at once as registers hold, with room for A and B. Of the 32 of AVX512: 8 rows x 2, or 3 x 4. Of the 16 of
   AVX, half as wide: 6 x 2, or 3 x 4, where B is read from memory. NEON's 32, a quarter as wide, hold what AVX's do; SSE's
   16 do not, and sums go to memory there. */
#ifndef TALL
#if WIDTH == 16
#define TALL 8
#define BROAD 2 /* times LANES columns */
#else
#define TALL 6
#define BROAD 1
#endif
#define FEW 5 /* rows, for which a block is twice as broad */
#endif

ALWAYS void FN(block)(int rows, int wide, float *C, long ldc, const float *A, long row, long column, const T *B,
                      long ldb, long depth, int add) {
    floats acc[TALL][2 * BROAD * LANES / WIDTH];
    for (int m = 0; m < rows; m++)
        for (int w = 0; w < wide; w++) acc[m][w] = add ? load_f32(C + m * ldc + w * WIDTH) : (floats){};
    for (long k = 0; k < depth; k++) {
        floats b[2 * BROAD * LANES / WIDTH];
        for (int w = 0; w < wide; w++) b[w] = LOAD(B + k * ldb + w * WIDTH);
        for (int m = 0; m < rows; m++) {
            floats a = all(A[m * row + k * column]);
            for (int w = 0; w < wide; w++) acc[m][w] += a * b[w];
        }
    }
    for (int m = 0; m < rows; m++)
        for (int w = 0; w < wide; w++) store(C + m * ldc + w * WIDTH, acc[m][w]);
}

#define BLOCKS(rows, broad)             \
    for (; m + rows <= num_rows; m += rows) \
    FN(block)(rows, broad *LANES / WIDTH, C + m * ldc + n, ldc, A + m * row, row, column, from, ldb, depth, add)

#define ALL_BLOCKS(broad) \
    BLOCKS(TALL, broad);  \
    BLOCKS(6, broad);     \
    BLOCKS(4, broad);     \
    BLOCKS(3, broad);     \
    BLOCKS(1, broad)

static void FN(product)(float *C, long ldc, const float *A, long row, long column, const T *B, long ldb, long panel,
                        long num_rows, long width, long depth, int add) {
    int broad;
    for (long n = 0; n < width; n += broad * LANES) {
        long left = (width - n) / LANES, m = 0;
        int few = num_rows <= FEW && left >= 2 * BROAD && n % (2 * BROAD * LANES) == 0;
        broad = few ? 2 * BROAD : left >= BROAD ? BROAD : 1;
        const T *from = B + n / PANEL * panel + n % PANEL;
        if (few) {
            BLOCKS(3, 2 * BROAD);
            BLOCKS(1, 2 * BROAD);
        } else if (broad == BROAD) {
            ALL_BLOCKS(BROAD);
        } else {
            ALL_BLOCKS(1);
        }
    }
}
#undef ALL_BLOCKS
#undef BLOCKS
