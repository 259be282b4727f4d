/* The softmax over the vocabulary: drawing from it, scoring a token under it, and its gradient; one row at a time, so
   that a row is read from memory once. `scale` is 1 / temperature; a banned token's logit is -inf. */

ALWAYS float FN(highest)(const T *row, long V) {
    float most = -INFINITY;
    int nan = 0;
#pragma omp simd reduction(max : most) reduction(| : nan)
    for (long v = 0; v < V; v++) {
        float x = UP(row[v]);
        most = x > most ? x : most;
        nan |= x != x;
    }
    return nan ? NAN : most;
}

/* token: the least v with cumulative probability above uniform; logp: its log-probability. Rows whose largest logit is
   not finite get token -1. */
void FN(draw)(const T *logits, const double *uniform, float scale, long rows, long V, int64_t *token, double *logp) {
#pragma omp parallel for schedule(static)
    for (long n = 0; n < rows; n++) {
        const T *row = logits + n * V;
        float most = FN(highest)(row, V);
        token[n] = -1;
        if (!(fabsf(most) < INFINITY)) continue;
        long stripes = (V + STRIPE - 1) / STRIPE;
        double total = 0, below = 0, *part = malloc(stripes * sizeof(double));
        for (long s = 0; s < stripes; s++) {
            long end = (s + 1) * STRIPE < V ? (s + 1) * STRIPE : V;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (long v = s * STRIPE; v < end; v++) sum += exponential((UP(row[v]) - most) * scale);
            total += part[s] = sum;
        }
        double aim = uniform[n] * total;
        long s = 0;
        while (s + 1 < stripes && below + part[s] <= aim) below += part[s++];
        long last = s; /* rounding could leave the aim above every sum: then the last token that can be drawn */
        for (; s < stripes && token[n] < 0; s++)
            for (long v = s * STRIPE; v < (s + 1) * STRIPE && v < V; v++) {
                double p = exponential((UP(row[v]) - most) * scale);
                below += p;
                if (p > 0 && below > aim) {
                    token[n] = v;
                    break;
                }
            }
        for (long v = (last + 1) * STRIPE < V ? (last + 1) * STRIPE - 1 : V - 1; v >= 0 && token[n] < 0; v--)
            if (exponential((UP(row[v]) - most) * scale) > 0) token[n] = v;
        if (token[n] >= 0) logp[n] = (double)((UP(row[token[n]]) - most) * scale) - log(total);
        free(part);
    }
}

/* logp of the targets, the entropy, and what makes probabilities of logits again: p = exp(scale (x - peak[0])) peak[1].
   Their log sum exp alone would not do: rounding a sum near 30 to float already costs 1e-6 of every probability. */
void FN(logps)(const T *logits, const int64_t *target, float scale, long rows, long V, float *logp, float *entropy,
               float *peak) {
#pragma omp parallel for schedule(static)
    for (long n = 0; n < rows; n++) {
        const T *row = logits + n * V;
        float most = FN(highest)(row, V);
        double total = 0, mean = 0;
        for (long begin = 0; begin < V; begin += STRIPE) {
            long end = begin + STRIPE < V ? begin + STRIPE : V;
            float sum = 0, moment = 0;
#pragma omp simd reduction(+ : sum, moment)
            for (long v = begin; v < end; v++) {
                float z = (UP(row[v]) - most) * scale, p = exponential(z);
                sum += p;
                moment += p * (z < -100.0f ? -100.0f : z); /* p is 0 there, and z may be -inf */
            }
            total += sum, mean += moment;
        }
        double size = log(total);
        logp[n] = (float)((UP(row[target[n]]) - most) * (double)scale - size);
        entropy[n] = (float)(size - mean / total);
        peak[2 * n] = most, peak[2 * n + 1] = (float)(1 / total);
    }
}

/* dlogits = scale dlogp (onehot - softmax), in place of the logits. */
void FN(logps_backward)(T *logits, const int64_t *target, float scale, const float *peak, const float *dlogp, long rows,
                        long V) {
#pragma omp parallel for schedule(static)
    for (long n = 0; n < rows; n++) {
        T *row = logits + n * V;
        float most = peak[2 * n], pull = -scale * dlogp[n] * peak[2 * n + 1];
        float own = scale * dlogp[n] + pull * exponential((UP(row[target[n]]) - most) * scale);
#pragma omp simd
        for (long v = 0; v < V; v++) row[v] = DOWN(pull * exponential((UP(row[v]) - most) * scale));
        row[target[n]] = DOWN(own);
    }
}
