/* Attention over packed tokens, forward and backward, without padding and without a table of all scores.

   A segment is a run of tokens that sees itself causally: a stem (a prompt, or a prompt with its only response) or a
   branch (one of several responses), which sees a whole prompt before itself. A row of `qkv` holds H query heads, J
   key heads, J value heads of depth D; query head h reads key head h / (H / J). */

/* Keys and values of a segment's prompt and own tokens as floats: rows [S][Dp], and transposed in panels. */
static void FN(gather)(const T *qkv, long stride, long offset, long D, segment s, float *rows, float *columns) {
    long Dp = PADDED(D), S = s.prompt_length + s.length, Sp = PANELED(S);
    if (columns) memset(columns, 0, Dp * Sp * sizeof(float));
    for (long t = 0; t < S; t++) {
        long token = t < s.prompt_length ? s.prompt_start + t : s.start + t - s.prompt_length;
        const T *from = qkv + token * stride + offset;
        if (rows)
            for (long d = 0; d < Dp; d++) rows[t * Dp + d] = d < D ? UP(from[d]) : 0;
        if (columns)
            for (long d = 0; d < D; d++) columns[(t / PANEL * Dp + d) * PANEL + t % PANEL] = UP(from[d]);
    }
}

/* A few queries (or gradients) of one head as floats, scaled. */
static void FN(fetch)(const T *from, long stride, long num, long D, float scale, float *to) {
    long Dp = PADDED(D);
    for (long a = 0; a < num; a++)
        for (long d = 0; d < Dp; d++) to[a * Dp + d] = d < D ? UP(from[a * stride + d]) * scale : 0;
}

void FN(attend)(const T *qkv, const segment *segments, long num, long H, long J, long D, float scale, T *out,
                float *peak, long longest) {
    long stride = (H + 2 * J) * D, repeats = H / J, Dp = PADDED(D), Lp = PANELED(longest);
#pragma omp parallel
    {
        float *scratch = aligned_alloc(64, (2 * Lp * Dp + QUERIES * (Lp + 2 * Dp)) * sizeof(float));
        arena a = {(char *)scratch};
        float *keys = take(&a, Lp * Dp), *values = take(&a, Lp * Dp), *score = take(&a, QUERIES * Lp);
        float *query = take(&a, QUERIES * Dp), *mixed = take(&a, QUERIES * Dp);
#pragma omp for schedule(dynamic) collapse(2)
        for (long b = 0; b < num; b++)
            for (long j = 0; j < J; j++) {
                segment s = segments[b];
                long M = s.prompt_length, Sp = PANELED(M + s.length);
                FN(gather)(qkv, stride, (H + j) * D, D, s, NULL, keys);
                FN(gather)(qkv, stride, (H + J + j) * D, D, s, values, NULL);
                for (long h = j * repeats; h < (j + 1) * repeats; h++)
                    for (long i = 0; i < s.length; i += QUERIES) {
                        long rows = s.length - i < QUERIES ? s.length - i : QUERIES, seen = M + i + rows;
                        FN(fetch)(qkv + (s.start + i) * stride + h * D, stride, rows, D, scale, query);
                        product_f32(score, Sp, query, Dp, 1, keys, PANEL, Dp * PANEL, rows, PADDED(seen), D, 0);
                        for (long q = 0; q < rows; q++) {
                            float *row = score + q * Sp, most = row[0], total = 0;
                            long own = M + i + q + 1;
#pragma omp simd reduction(max : most)
                            for (long t = 0; t < own; t++) most = row[t] > most ? row[t] : most;
#pragma omp simd reduction(+ : total)
                            for (long t = 0; t < own; t++) total += row[t] = exponential(row[t] - most);
                            for (long t = own; t < seen; t++) row[t] = 0;
                            float share = 1 / total, *mine = peak + 2 * ((s.start + i + q) * H + h);
                            mine[0] = most, mine[1] = share;
#pragma omp simd
                            for (long t = 0; t < own; t++) row[t] *= share;
                        }
                        product_f32(mixed, Dp, score, Sp, 1, values, Dp, PANEL, rows, Dp, seen, 0);
                        for (long q = 0; q < rows; q++)
                            for (long d = 0; d < D; d++)
                                out[(s.start + i + q) * H * D + h * D + d] = DOWN(mixed[q * Dp + d]);
                    }
            }
        free(scratch);
    }
}

/* Adds a segment's gradients for key head j to dkeys and dvalues, [S][Dp] each, and writes those of its queries:
   P = exp(scale q.k - peak[0]) peak[1], dP = dout.v, dS = P (dP - dout.out), dq = scale dS k, dk = scale dS^T q, dv = P^T dout. */
static void FN(segment_backward)(const T *qkv, const T *out, const T *dout, const float *peak, segment s, long H,
                                 long J, long D, float scale, long j, T *dqkv, float *dkeys, float *dvalues, arena a) {
    long stride = (H + 2 * J) * D, repeats = H / J, Dp = PADDED(D), M = s.prompt_length, S = M + s.length;
    long Sp = PANELED(S);
    float *keys = take(&a, S * Dp), *turned_keys = take(&a, Sp * Dp), *turned_values = take(&a, Sp * Dp);
    float *weight = take(&a, QUERIES * Sp), *slope = take(&a, QUERIES * Sp);
    float *query = take(&a, QUERIES * Dp), *pull = take(&a, QUERIES * Dp), *dquery = take(&a, QUERIES * Dp);
    FN(gather)(qkv, stride, (H + j) * D, D, s, keys, turned_keys);
    FN(gather)(qkv, stride, (H + J + j) * D, D, s, NULL, turned_values);
    for (long h = j * repeats; h < (j + 1) * repeats; h++)
        for (long i = 0; i < s.length; i += QUERIES) {
            long rows = s.length - i < QUERIES ? s.length - i : QUERIES, seen = M + i + rows, first = s.start + i;
            FN(fetch)(qkv + first * stride + h * D, stride, rows, D, scale, query);
            FN(fetch)(dout + first * H * D + h * D, H * D, rows, D, 1, pull);
            product_f32(weight, Sp, query, Dp, 1, turned_keys, PANEL, Dp * PANEL, rows, PADDED(seen), D, 0);
            product_f32(slope, Sp, pull, Dp, 1, turned_values, PANEL, Dp * PANEL, rows, PADDED(seen), D, 0);
            for (long q = 0; q < rows; q++) {
                float *p = weight + q * Sp, *ds = slope + q * Sp, dot = 0;
                const float *mine = peak + 2 * ((first + q) * H + h);
                const T *o = out + (first + q) * H * D + h * D;
                long own = M + i + q + 1;
                for (long d = 0; d < D; d++) dot += pull[q * Dp + d] * UP(o[d]);
#pragma omp simd
                for (long t = 0; t < own; t++) {
                    p[t] = exponential(p[t] - mine[0]) * mine[1];
                    ds[t] = p[t] * (ds[t] - dot);
                }
                for (long t = own; t < seen; t++) p[t] = ds[t] = 0;
            }
            product_f32(dquery, Dp, slope, Sp, 1, keys, Dp, PANEL, rows, Dp, seen, 0);
            for (long q = 0; q < rows; q++)
                for (long d = 0; d < D; d++)
                    dqkv[(first + q) * stride + h * D + d] = DOWN(scale * dquery[q * Dp + d]);
            product_f32(dkeys, Dp, slope, 1, Sp, query, Dp, PANEL, seen, Dp, rows, 1); /* the scale is in the query */
            product_f32(dvalues, Dp, weight, 1, Sp, pull, Dp, PANEL, seen, Dp, rows, 1);
        }
}

/* Branches first, each with a copy of its prompt's gradients of its own in `shared` ([2][J][M][Dp] a branch, from
   `offset` on); then stems, which begin with the sum of their branches' copies: no two threads write the same. */
void FN(attend_backward)(const T *qkv, const T *out, const T *dout, const float *peak, const segment *segments,
                         const branches *children, long num_stems, long num, const long *offset, float *shared, long H,
                         long J, long D, float scale, T *dqkv, long longest) {
    long stride = (H + 2 * J) * D, Dp = PADDED(D), Lp = PANELED(longest);
#pragma omp parallel
    {
        float *scratch = aligned_alloc(64, (5 * Lp * Dp + QUERIES * (2 * Lp + 3 * Dp)) * sizeof(float));
        arena a = {(char *)scratch};
        float *dkeys = take(&a, Lp * Dp), *dvalues = take(&a, Lp * Dp);
        for (int stems = 0; stems < 2; stems++) {
            long begin = stems ? 0 : num_stems, end = stems ? num_stems : num;
#pragma omp for schedule(dynamic) collapse(2)
            for (long b = begin; b < end; b++)
                for (long j = 0; j < J; j++) {
                    segment s = segments[b];
                    long M = s.prompt_length, size = (M + s.length) * Dp;
                    memset(dkeys, 0, size * sizeof(float));
                    memset(dvalues, 0, size * sizeof(float));
                    for (long c = 0; stems && c < children[b].num; c++) {
                        long child = children[b].first + c, part = segments[child].prompt_length * Dp;
                        const float *theirs = shared + offset[child] + 2 * j * part;
                        for (long x = 0; x < part; x++) dkeys[x] += theirs[x], dvalues[x] += theirs[part + x];
                    }
                    FN(segment_backward)(qkv, out, dout, peak, s, H, J, D, scale, j, dqkv, dkeys, dvalues, a);
                    if (M) {
                        float *mine = shared + offset[b] + 2 * j * M * Dp;
                        memcpy(mine, dkeys, M * Dp * sizeof(float));
                        memcpy(mine + M * Dp, dvalues, M * Dp * sizeof(float));
                    }
                    for (long t = 0; t < s.length; t++)
                        for (long d = 0; d < D; d++) {
                            T *row = dqkv + (s.start + t) * stride + d;
                            row[(H + j) * D] = DOWN(dkeys[(M + t) * Dp + d]);
                            row[(H + J + j) * D] = DOWN(dvalues[(M + t) * Dp + d]);
                        }
                }
        }
        free(scratch);
    }
}
