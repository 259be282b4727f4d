/* One new token for each of N rows, over the row's prompt (shared by its neighbours) and what it wrote itself; the two
   parts are joined in one softmax. Keys lie transposed in panels, [J][length / 64][Dp][64], values as
   [J][length][Dp]; lengths are padded to whole panels. A row's newest keys wait as rows in its tail until there are
   sixteen: a column alone would touch Dp lines of memory for two bytes each. */

/* Sixteen keys, [16][Dp], as columns `at` and on of panels. */
static void FN(close_tail)(const T *tail, T *keys, long at, long Dp) {
    T *to = keys + at / PANEL * Dp * PANEL + at % PANEL;
    for (long d = 0; d < Dp; d++)
        for (long t = 0; t < LANES; t++) to[d * PANEL + t] = tail[t * Dp + d];
}

void FN(decode)(T *qkv, const float *cosine, const float *sine, long H, long J, long D, float scale, const crew *crews,
                long num_crews, const int64_t *prompt_keys, const int64_t *prompt_values, const int64_t *prompt_length,
                long layer, T *own_keys, T *own_tails, T *own_values, const int64_t *order, const int64_t *slot,
                const int64_t *written, long room, long largest_crew, long longest_prompt, T *out) {
    long stride = (H + 2 * J) * D, repeats = H / J, Dp = PADDED(D), Tp = PANELED(room), half = D / 2;
    long most = largest_crew * repeats;
#pragma omp parallel
    {
        long floats = most * (2 * Dp + PANELED(longest_prompt) + Tp) + Dp * LANES;
        float *scratch = aligned_alloc(64, floats * sizeof(float));
        arena a = {(char *)scratch};
        float *query = take(&a, most * Dp), *mixed = take(&a, most * Dp), *newest = take(&a, Dp * LANES);
        float *score = (float *)a.at;
#pragma omp for schedule(dynamic) collapse(2)
        for (long c = 0; c < num_crews; c++)
            for (long j = 0; j < J; j++) {
                crew rows = crews[c];
                long num = rows.num * repeats, M = prompt_length[rows.prompt], Mp = PANELED(M), W = Mp + Tp;
                const T *keys = (const T *)prompt_keys[rows.prompt] + (layer * J + j) * Dp * Mp;
                const T *values = (const T *)prompt_values[rows.prompt] + (layer * J + j) * Dp * Mp;
                for (long r = 0; r < rows.num; r++)
                    for (long h = 0, n = order[rows.first + r]; h < repeats; h++) {
                        T *head = qkv + n * stride + (j * repeats + h) * D;
                        FN(rotate)(head, head, cosine + n * half, sine + n * half, half, 1);
                        FN(fetch)(head, 0, 1, D, scale, query + (r * repeats + h) * Dp);
                    }
                FN(product)(score, W, query, Dp, 1, keys, PANEL, Dp * PANEL, num, PADDED(M), D, 0);
                for (long r = 0; r < rows.num; r++) {
                    long n = order[rows.first + r], t = written[n], place = slot[n] * J + j;
                    T *key = qkv + n * stride + (H + j) * D, *tail = own_tails + place * LANES * Dp;
                    FN(rotate)(key, tail + t % LANES * Dp, cosine + n * half, sine + n * half, half, 1);
                    memcpy(own_values + (place * Tp + t) * Dp, key + J * D, D * sizeof(T));
                    long closed = (t + 1) / LANES * LANES, open = t + 1 - closed;
                    if (open == 0) FN(close_tail)(tail, own_keys + place * Dp * Tp, t + 1 - LANES, Dp);
                    float *first = score + r * repeats * W, *own = first + Mp, *q = query + r * repeats * Dp;
                    FN(product)(own, W, q, Dp, 1, own_keys + place * Dp * Tp, PANEL, Dp * PANEL, repeats, closed, D, 0);
                    if (open) {
                        for (long d = 0; d < D; d++)
                            for (long x = 0; x < open; x++) newest[d * LANES + x] = UP(tail[x * Dp + d]);
                        product_f32(own + closed, W, q, Dp, 1, newest, LANES, PANEL, repeats, LANES, D, 0);
                    }
                    for (long h = 0; h < repeats; h++) {
                        float *row = first + h * W, highest = row[Mp], total = 0;
                        for (long x = M; x < Mp; x++) row[x] = -INFINITY; /* between prompt and own */
#pragma omp simd reduction(max : highest)
                        for (long x = 0; x <= Mp + t; x++) highest = row[x] > highest ? row[x] : highest;
#pragma omp simd reduction(+ : total)
                        for (long x = 0; x <= Mp + t; x++) total += row[x] = exponential(row[x] - highest);
                        float share = 1 / total;
#pragma omp simd
                        for (long x = 0; x <= Mp + t; x++) row[x] *= share;
                    }
                }
                FN(product)(mixed, Dp, score, W, 1, values, Dp, PANEL, num, Dp, M, 0);
                for (long r = 0; r < rows.num; r++) {
                    long n = order[rows.first + r], place = slot[n] * J + j;
                    FN(product)(mixed + r * repeats * Dp, Dp, score + r * repeats * W + Mp, W, 1,
                                own_values + place * Dp * Tp, Dp, PANEL, repeats, Dp, written[n] + 1, 1);
                    for (long h = 0; h < repeats; h++)
                        for (long d = 0; d < D; d++)
                            out[(n * H + j * repeats + h) * D + d] = DOWN(mixed[(r * repeats + h) * Dp + d]);
                }
            }
        free(scratch);
    }
}
