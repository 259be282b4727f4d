/* What stands between the matrix products of a layer. Sums are float32; what transformers rounds is rounded. */

/* sum = x + add (if there is an add); out = weight * round(sum * rstd), rstd = 1 / sqrt(mean(sum^2) + eps). */
void FN(norm)(const T *x, const T *add, const T *weight, T *sum, T *out, float *rstd, long rows, long width,
              float eps) {
#pragma omp parallel for schedule(static) if (rows * width > 32768)
    for (long n = 0; n < rows; n++) {
        const T *from = x + n * width;
        T *to = out + n * width;
        if (add) {
            T *both = sum + n * width;
            const T *more = add + n * width;
#pragma omp simd
            for (long i = 0; i < width; i++) both[i] = DOWN(UP(from[i]) + UP(more[i]));
            from = both;
        }
        float square = 0;
#pragma omp simd reduction(+ : square)
        for (long i = 0; i < width; i++) square += UP(from[i]) * UP(from[i]);
        float scale = 1 / sqrtf(square / width + eps);
        if (rstd) rstd[n] = scale;
#pragma omp simd
        for (long i = 0; i < width; i++) to[i] = DOWN(UP(weight[i]) * UP(DOWN(UP(from[i]) * scale)));
    }
}

/* With g = dout * weight: dx = rstd * (g - x rstd^2 mean(g x)) + residual; dweight = sum_rows dout x rstd, summed in
   SHARES parts (a row of `width` each in `partial`), so that the number of threads does not change a bit. */
void FN(norm_backward)(const T *dout, const T *x, const float *rstd, const T *weight, const T *residual, T *dx,
                       float *dweight, float *partial, long rows, long width) {
    memset(partial, 0, SHARES * width * sizeof(float));
#pragma omp parallel for schedule(static) if (rows * width > 8192)
    for (long share = 0; share < SHARES; share++)
        for (long n = share * rows / SHARES; n < (share + 1) * rows / SHARES; n++) {
            const T *d = dout + n * width, *from = x + n * width;
            float dot = 0, scale = rstd[n], *mine = partial + share * width;
#pragma omp simd reduction(+ : dot)
            for (long i = 0; i < width; i++) dot += UP(d[i]) * UP(weight[i]) * UP(from[i]);
            float pull = dot / width * scale * scale;
            T *to = dx + n * width;
            if (residual) {
                const T *rest = residual + n * width;
#pragma omp simd
                for (long i = 0; i < width; i++)
                    to[i] = DOWN(UP(rest[i]) + scale * (UP(d[i]) * UP(weight[i]) - UP(from[i]) * pull));
            } else {
#pragma omp simd
                for (long i = 0; i < width; i++)
                    to[i] = DOWN(scale * (UP(d[i]) * UP(weight[i]) - UP(from[i]) * pull));
            }
#pragma omp simd
            for (long i = 0; i < width; i++) mine[i] += UP(d[i]) * UP(from[i]) * scale;
        }
    sum_shares(partial, dweight, width);
}

/* Rotates the pairs (i, i + half) of a head by the angles of its position; `turn` is -1 to rotate back. */
ALWAYS void FN(rotate)(const T *from, T *to, const float *cosine, const float *sine, long half, float turn) {
#pragma omp simd
    for (long i = 0; i < half; i++) {
        float a = UP(from[i]), b = UP(from[i + half]), s = turn * sine[i];
        to[i] = DOWN(a * cosine[i] - b * s);
        to[i + half] = DOWN(b * cosine[i] + a * s);
    }
}

/* `heads` heads of depth 2 * half at the start of every row, in place. */
void FN(rotary)(T *rows_of_heads, long stride, const float *cosine, const float *sine, long rows, long heads,
                long half, float turn) {
#pragma omp parallel for schedule(static) if (rows * heads * half > 4096)
    for (long n = 0; n < rows; n++)
        for (long h = 0; h < heads; h++) {
            T *head = rows_of_heads + n * stride + h * 2 * half;
            FN(rotate)(head, head, cosine + n * half, sine + n * half, half, turn);
        }
}

/* out = silu(gate) * up, silu(g) = g / (1 + exp(-g)); a row of `both` is gate, then up. */
void FN(swiglu)(const T *both, T *out, long rows, long width) {
#pragma omp parallel for schedule(static) if (rows * width > 4096)
    for (long n = 0; n < rows; n++) {
        const T *gate = both + 2 * n * width, *open = gate + width;
        T *to = out + n * width;
#pragma omp simd
        for (long i = 0; i < width; i++) {
            float g = UP(gate[i]);
            to[i] = DOWN(UP(DOWN(g / (1 + exponential(-g)))) * UP(open[i]));
        }
    }
}

/* Gradients of gate and up from dout, in place of `both`; and the forward's output again, in place of dout. */
void FN(swiglu_backward)(T *both, T *dout, long rows, long width) {
#pragma omp parallel for schedule(static) if (rows * width > 4096)
    for (long n = 0; n < rows; n++) {
        T *gate = both + 2 * n * width, *open = gate + width, *d = dout + n * width;
#pragma omp simd
        for (long i = 0; i < width; i++) {
            float g = UP(gate[i]), u = UP(open[i]), s = 1 / (1 + exponential(-g)), dy = UP(d[i]);
            float silu = UP(DOWN(g * s));
            d[i] = DOWN(silu * u);
            gate[i] = DOWN(dy * u * s * (1 + g * (1 - s)));
            open[i] = DOWN(dy * silu);
        }
    }
}

/* The norm of every head by itself, in place, at the start of rows that are `stride` apart. */
void FN(head_norm)(T *rows_of_heads, long stride, const T *weight, long rows, long heads, long depth, float eps) {
#pragma omp parallel for schedule(static) if (rows * heads * depth > 8192)
    for (long n = 0; n < rows; n++)
        for (long h = 0; h < heads; h++) {
            T *head = rows_of_heads + n * stride + h * depth;
            float square = 0;
            for (long i = 0; i < depth; i++) square += UP(head[i]) * UP(head[i]);
            float scale = 1 / sqrtf(square / depth + eps);
            for (long i = 0; i < depth; i++) head[i] = DOWN(UP(weight[i]) * UP(DOWN(UP(head[i]) * scale)));
        }
}

/* Its gradient, in place of `dout`; `raw` is what the norm was given. */
void FN(head_norm_backward)(T *dout, const T *raw, long stride, const T *weight, float *dweight, float *partial,
                            long rows, long heads, long depth, float eps) {
    memset(partial, 0, SHARES * depth * sizeof(float));
#pragma omp parallel for schedule(static) if (rows * heads * depth > 8192)
    for (long share = 0; share < SHARES; share++)
        for (long n = share * rows / SHARES; n < (share + 1) * rows / SHARES; n++)
            for (long h = 0; h < heads; h++) {
                T *d = dout + n * stride + h * depth;
                const T *x = raw + n * stride + h * depth;
                float square = 0, dot = 0, *mine = partial + share * depth;
                for (long i = 0; i < depth; i++) {
                    square += UP(x[i]) * UP(x[i]);
                    dot += UP(d[i]) * UP(weight[i]) * UP(x[i]);
                }
                float scale = 1 / sqrtf(square / depth + eps), pull = dot / depth * scale * scale;
                for (long i = 0; i < depth; i++) {
                    float dy = UP(d[i]);
                    mine[i] += dy * UP(x[i]) * scale;
                    d[i] = DOWN(scale * (dy * UP(weight[i]) - UP(x[i]) * pull));
                }
            }
    sum_shares(partial, dweight, depth);
}
