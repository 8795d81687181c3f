// What rational.cpp and the kernels of each instruction set agree on.

#pragma once

#include <stdint.h>

namespace kat {

enum InstructionSet : int64_t { kBaseline, kAvx2, kAvx512 };
enum DataType : int64_t { kFloat32, kBFloat16, kFloat16, kFloat64 };
enum Form : int64_t { kFormA, kFormB };

constexpr int kMaxDegree = 16;
constexpr int kMaxOrder = 3;  // of the derivatives that have kernels
constexpr int kMaxVectorBytes = 64;
constexpr int64_t kSkip = 128;  // elements, whole vectors of every type

// The input of one kernel call: `rows` rows, `stride` elements apart, of `strips` strips, `pitch`
// elements apart, of `length` elements each, a whole number of vectors. All elements of a strip
// share coefficients.
struct Block {
  const char* x;
  const char* grad;          // null: forward only
  char* y;                   // may be null in the backward pass
  char* dx;
  const char* v;             // of y = F(x) v; null: y = F(x)
  char* dv;
  int64_t rows, stride, strips, pitch, length;
  int64_t in_stride;         // of y = F(x) v: the stride of x and v; `stride` is of grad and y
  int64_t out_stride;        // the stride of dx and dv
  int64_t ahead;             // the distance to the next block in elements, for prefetching
  void* largest;             // a vector of the largest |x| so far, updated
  double x_limit;            // the guarded kernel excludes elements with a larger |x|
  double grad_limit;         // or a smaller nonzero |grad|
  const void* coefficients;  // a strip's a_0 .. a_m, then |b_j| (form A) or b_j (form B)
  int64_t lanes;             // 1: the same coefficient for all lanes of a vector
  void* sums;                // a strip's m + 1 + n vectors, added to: sum w x^i, then sum v u^j
  int m, n;
  int order;                 // of the derivative kernels
};

typedef void (*Kernel)(const Block&);

struct Kernels {
  Kernel forward, backward, guarded_backward;
  double (*least)(const char* grad, int64_t count);
  int64_t (*skip)(const char* values, int64_t count, double limit);
  double (*load)(const char* from);  // one element
  void (*store)(char* to, double value);
};

// The kernels of each instruction set, from kernels.cpp, compiled once for each. Of F(x), or, where
// gated, of F(x) v; and of F's derivatives, in float32 and float64.
#define KAT_DECLARE_KERNELS(isa)                                                     \
  namespace isa {                                                                    \
  Kernels kernels(int64_t data_type, int64_t form, int m, int n, bool gated);        \
  Kernels derivative_kernels(int64_t data_type, int64_t form);                       \
  }
KAT_DECLARE_KERNELS(baseline)
KAT_DECLARE_KERNELS(avx2)
KAT_DECLARE_KERNELS(avx512)

}  // namespace kat
