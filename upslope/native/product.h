/* C[m][n] (=, or += if `add`) sum_k A(m, k) B(k, n), the product inside attention. A(m, k) stands at A[m * row + k *
   column], so A may be read transposed. B(k, n) stands at B[(n / 64) * panel + k * ldb + n % 64]: panels of 64 columns
   keep what is read together close together, while plain rows of length ldb are panels that are 64 apart. */

ALWAYS void FN(block)(int rows, int wide, float *C, long ldc, const float *A, long row, long column, const T *B,
                      long ldb, long depth, int add) {
    f32x16 acc[8][4];
    for (int m = 0; m < rows; m++)
        for (int w = 0; w < wide; w++) acc[m][w] = add ? load_f32(C + m * ldc + w * LANES) : (f32x16){};
    for (long k = 0; k < depth; k++) {
        f32x16 b[4];
        for (int w = 0; w < wide; w++) b[w] = LOAD(B + k * ldb + w * LANES);
        for (int m = 0; m < rows; m++) {
            f32x16 a = all(A[m * row + k * column]);
            for (int w = 0; w < wide; w++) acc[m][w] += a * b[w];
        }
    }
    for (int m = 0; m < rows; m++)
        for (int w = 0; w < wide; w++) store(C + m * ldc + w * LANES, acc[m][w]);
}

#define BLOCKS(rows, wide) \
    for (; m + rows <= num_rows; m += rows) \
        FN(block)(rows, wide, C + m * ldc + n, ldc, A + m * row, row, column, from, ldb, depth, add)

static void FN(product)(float *C, long ldc, const float *A, long row, long column, const T *B, long ldb, long panel,
                        long num_rows, long width, long depth, int add) {
    /* As many sums at once as there are registers: 8 x 2, or 5 and fewer rows x 4. */
    int widest = num_rows <= 5 ? 4 : 2, wide;
    for (long n = 0; n < width; n += wide * LANES) {
        long left = (width - n) / LANES, m = 0;
        wide = left >= 4 && widest == 4 && n % PANEL == 0 ? 4 : left >= 2 ? 2 : 1;
        const T *from = B + n / PANEL * panel + n % PANEL;
        if (wide == 4) {
            BLOCKS(3, 4);
            BLOCKS(1, 4);
        } else if (wide == 2) {
            BLOCKS(8, 2);
            BLOCKS(3, 2);
            BLOCKS(1, 2);
        } else {
            BLOCKS(8, 1);
            BLOCKS(3, 1);
            BLOCKS(1, 1);
        }
    }
}
#undef BLOCKS
