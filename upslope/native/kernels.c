/* The loops between matrix products, once for float and once for bfloat16. Compiled for the machine they run on. */
#include "vector.h"

#define T float
#define FN(name) name##_f32
#define UP up_f32
#define DOWN down_f32
#define LOAD load_f32
#include "product.h"
#include "pointwise.h"
#include "attention.h"
#include "decode.h"
#include "vocabulary.h"
#undef T
#undef FN
#undef UP
#undef DOWN
#undef LOAD

#define T bf16
#define FN(name) name##_bf16
#define UP up_bf16
#define DOWN down_bf16
#define LOAD load_bf16
#include "product.h"
#include "pointwise.h"
#include "attention.h"
#include "decode.h"
#include "vocabulary.h"
