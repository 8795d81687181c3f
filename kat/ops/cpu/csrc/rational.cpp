// The rational function F(x) = P(x) / Q(x), its derivatives, the gate F(x) v, and their
// gradients on the CPU, as a plain C library.
//
//   P(x) = a_0 + a_1 x + ... + a_m x^m
//   form A:  Q(x) = 1 + sum_j |b_j| |x|^j        form B:  Q(x) = 1 + |sum_j b_j x^j|
//
// The arithmetic is in kernels.cpp, compiled once for each instruction set, and in scaled.inc for the
// elements that over- or underflow there. This file divides memory among torch's own threads and
// adds up the gradients of the coefficients.
//
// A dense tensor, in whatever order of dimensions, is a flat sequence of runs: run i holds
// `channel_stride * channels / groups` contiguous elements, all of group i mod groups. So channels
// last, (B, C, H, W) and everything between are one case.
//
// The build needs no part of torch. The caller passes the address of `torch_parallel_for` (torch's
// C shim, torch >= 2.10). So one binary serves all versions of torch, and the threads are torch's.

#include <fenv.h>
#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.h"

#ifndef KAT_SOURCE_HASH
#define KAT_SOURCE_HASH "unknown"
#endif
// The instruction sets that are linked: a sum of 2^InstructionSet.
#ifndef KAT_INSTRUCTION_SETS
#define KAT_INSTRUCTION_SETS 7
#endif
#define KAT_EXPORT extern "C" __attribute__((visibility("default")))

using namespace kat;

namespace {

typedef void (*Task)(int64_t begin, int64_t end, void* context);
typedef int32_t (*ParallelFor)(int64_t begin, int64_t end, int64_t grain, Task, void* context);

enum Status : int32_t { kDone, kOutOfMemory, kUnsupported, kThreadsFailed, kOutOfRange };

constexpr double kBelowAll = -1;  // a limit on |x|

// Elements in a chunk, the unit of work of a thread. A chunk fits the second-level cache. Its size
// does not depend on the number of threads, so neither do the sums of a chunk or their order.
constexpr int64_t kChunk = 16384;
// Vectors that a kernel adds up before their sum joins the chunk's: short sums round less.
constexpr int64_t kShortSum = 48;
// Bytes of each tensor in one kernel call, which goes strip by strip and prefetches as many for the
// next call, outputs too. Forward, memory is the bottleneck, and few bytes stay close to its order;
// backward, there are enough rows to keep a strip's sums in registers.
constexpr int64_t kForwardBytes = 8192, kBackwardBytes = 16384;
// One thread starts for so many chunks, or fewer: to wake another takes some microseconds.
constexpr int64_t kForwardGrain = 4, kBackwardGrain = 1;

}  // namespace

#include "scaled.inc"

namespace {

// Whether this thread's arithmetic has lost digits to underflow since the object was created. The
// processor records that by itself, at no cost.
class Underflow {
 public:
#if defined(__x86_64__)
  Underflow() { _mm_setcsr(_mm_getcsr() & ~_MM_EXCEPT_UNDERFLOW); }
  bool seen() const { return _mm_getcsr() & _MM_EXCEPT_UNDERFLOW; }
#else
  Underflow() { feclearexcept(FE_UNDERFLOW); }
  bool seen() const { return fetestexcept(FE_UNDERFLOW); }
#endif
};

}  // namespace

// One call from Python. All members have 64 bits, so Python packs them without padding.
struct RationalCall {
  ParallelFor parallel_for;
  int64_t instruction_set, data_type, form;
  int64_t count, channels, channel_stride;
  const char* x;
  const char* grad;  // null: forward only, into y
  char* y;           // may be null in the backward pass
  char* dx;
  const void* a;     // (a_rows, m + 1), float, or double where x is double
  int64_t a_rows, a_columns;
  const void* b;     // (b_rows, n)
  int64_t b_rows, b_columns;
  void* da;          // of a's and b's shapes and type; null: nobody asked for them
  void* db;
  int64_t order;     // of the derivative that takes the place of F
  // Of y = F(x) v; null: y = F(x). The tensors of a gate are rows of channels. Those of x and v, and
  // of dx and dv, may lie further apart, as in the halves of one tensor.
  const char* v;
  char* dv;
  int64_t in_stride, out_stride;  // of these rows, in elements
};

namespace {

int64_t smaller(int64_t i, int64_t j) { return i < j ? i : j; }
int64_t larger(int64_t i, int64_t j) { return i > j ? i : j; }
int64_t divide_up(int64_t i, int64_t j) { return (i + j - 1) / j; }

int64_t greatest_common_divisor(int64_t i, int64_t j) {
  while (j) {
    const int64_t rest = i % j;
    i = j;
    j = rest;
  }
  return i;
}

// How memory is divided. A strip is a run of `run` elements that recurs every `period` elements.
//
// Where a group's run is a whole number of vectors, or long, a strip is a group. Where it is short
// and ragged, a strip is one vector of the flat memory with a coefficient for each lane; the
// pattern recurs after lcm(groups * run, width) elements. So no lane is wasted.
struct Plan {
  int64_t groups, group_run;
  int64_t width, lanes;
  int64_t run, period, strips;
  int64_t chunk, chunks;
  bool whole_periods;  // whether a chunk is a number of periods, or starts and ends anywhere
  int64_t slots;       // partial sums of one chunk: one for each group, or for each run it touches

  // `rows_apart`: channels are contiguous, but rows are not, so no strip may cross their ends.
  Plan(int64_t count, int64_t groups_, int64_t group_run_, int64_t width_, bool rows_apart)
      : groups(groups_), group_run(group_run_), width(width_), lanes(1) {
    run = groups == 1 && !rows_apart ? kShortSum * width : group_run;
    strips = groups;
    period = run * strips;
    const int64_t cycle = period / greatest_common_divisor(period, width) * width;
    if (run % width && run < 8 * width && cycle <= 4096 && !rows_apart) {
      lanes = width;
      run = width;
      strips = cycle / width;
      period = cycle;
    }
    whole_periods = run <= kShortSum * width && period <= 2 * kChunk;
    const int64_t least = lanes > 1 ? kShortSum / 2 : 1;
    chunk = whole_periods ? period * larger(kChunk / period, least) : kChunk;
    chunks = divide_up(count, chunk);
    slots = whole_periods ? groups : chunk / run + 2;
  }

  int64_t group_of(int64_t offset) const { return offset / group_run % groups; }

  // The slot to which element `offset` of chunk `index` adds.
  int64_t slot_of(int64_t index, int64_t offset) const {
    return whole_periods ? group_of(offset) : offset / run - index * chunk / run;
  }

  int64_t group_of_slot(int64_t index, int64_t slot) const {
    return whole_periods ? slot : (index * chunk / run + slot) % groups;
  }

  int64_t group_of_lane(int64_t strip, int64_t lane) const {
    return (strip * width + lane) / group_run % groups;
  }
};

// The caller knows the processor, and what this library was compiled for.
#if KAT_INSTRUCTION_SETS & 4 && defined(__x86_64__)
#define KAT_IF_AVX512(call, expression) \
  if (call.instruction_set == kAvx512) return avx512::expression
#else
#define KAT_IF_AVX512(call, expression)
#endif
#if KAT_INSTRUCTION_SETS & 2 && defined(__x86_64__)
#define KAT_IF_AVX2(call, expression) \
  if (call.instruction_set == kAvx2) return avx2::expression
#else
#define KAT_IF_AVX2(call, expression)
#endif
#if KAT_INSTRUCTION_SETS & 1
#define KAT_ELSE(expression) return baseline::expression
#else
#define KAT_ELSE(expression) __builtin_trap()
#endif

Kernels kernels(const RationalCall& call) {
  const int m = int(call.a_columns) - 1, n = int(call.b_columns);
  if (call.order) {
    KAT_IF_AVX512(call, derivative_kernels(call.data_type, call.form));
    KAT_IF_AVX2(call, derivative_kernels(call.data_type, call.form));
    KAT_ELSE(derivative_kernels(call.data_type, call.form));
  }
  KAT_IF_AVX512(call, kernels(call.data_type, call.form, m, n, call.v));
  KAT_IF_AVX2(call, kernels(call.data_type, call.form, m, n, call.v));
  KAT_ELSE(kernels(call.data_type, call.form, m, n, call.v));
}

// One call, with arithmetic in R (float or double).
template <class R>
class Operation {
 public:
  // `size`: bytes of an element of x.
  Operation(const RationalCall& call, const Kernels& kernels, int64_t size, const Plan& plan)
      : call_(call), kernels_(kernels), size_(size), plan_(plan),
        in_gap_(call.v ? call.in_stride - call.channels : 0),
        out_gap_(call.v ? call.out_stride - call.channels : 0),
        m_(int(call.a_columns) - 1), n_(int(call.b_columns)), terms_(m_ + 1 + n_), limit_(limit()),
        a_size_(a_size()), b_size_(b_size()), table_(nullptr), partial_(nullptr), failed_(false),
        out_of_range_(false) {}

  ~Operation() {
    free(table_);
    free(partial_);
  }

  Status run() {
    if (!fill_table() || !reserve_partial()) return kOutOfMemory;
    const int64_t grain = call_.grad ? kBackwardGrain : kForwardGrain;
    if (call_.parallel_for(0, plan_.chunks, grain, &Operation::task, this)) return kThreadsFailed;
    if (call_.da) failed_ |= !add_up();
    return failed_ ? kOutOfMemory : out_of_range_ ? kOutOfRange : kDone;
  }

 private:
  // Elements [begin, end), processed by one thread.
  struct Chunk {
    int64_t index, begin, end;
    Kernel kernel;
    double grad_limit;  // smaller nonzero output gradients need scaled arithmetic
    R* sums;
    R largest[kMaxVectorBytes / sizeof(R)];  // the largest |x| of each lane
  };

  const R* a(int64_t group) const {
    return static_cast<const R*>(call_.a) + (call_.a_rows == 1 ? 0 : group) * (m_ + 1);
  }

  const R* b(int64_t group) const {
    return static_cast<const R*>(call_.b) + (call_.b_rows == 1 ? 0 : group) * n_;
  }

  // The largest |x| for the kernels, where no power of x, P or Q comes near overflow: |P| <= 2^96,
  // Q <= 2^40; more for float64. Sums that overflow are computed again.
  double limit() const {
    const int more = sizeof(R) == 8 ? 8 : 1;
    const double p = limit(size(static_cast<const R*>(call_.a), call_.a_rows, m_ + 1), m_, 96 * more);
    const double q = limit(b_size(), n_, 40 * more);
    return p < q ? p : q;
  }

  // A power of two L such that size L^degree <= 2^exponent.
  static double limit(double size, int degree, int exponent) {
    const int room = exponent - Parts(size).exponent;
    return times_power(1, room / (degree ? degree : 1));
  }

  // The largest 1 + sum_i |c_i| of a row.
  static double size(const R* c, int64_t rows, int columns) {
    double largest = 1;
    for (int64_t row = 0; row < rows; ++row, c += columns) {
      double size = 1;
      for (int i = 0; i < columns; ++i) size += __builtin_fabs(double(c[i]));
      if (size > largest && !__builtin_isinf(size)) largest = size;
    }
    return largest;
  }

  double b_size() const { return size(static_cast<const R*>(call_.b), call_.b_rows, n_); }

  // The smallest over all rows that are not zero of the largest |a_i| in the row.
  double a_size() const {
    double least = __builtin_inf();
    for (int64_t row = 0; row < call_.a_rows; ++row) {
      double largest = 0;
      for (int i = 0; i <= m_; ++i) {
        const double size = __builtin_fabs(double(a(row)[i]));
        if (size > largest) largest = size;
      }
      if (largest > 0 && largest < least) least = largest;
    }
    return least;
  }

  // The smallest nonzero |grad| for plain arithmetic up to this |x|. Where |x| > 1, a power of x
  // may make a subnormal grad / Q or F grad / Q large again, so both must be normal numbers. For
  // q >= Q they are at least |grad| / q and |grad| max |a_i| / q^2, up to cancellation.
  double least_grad(double x) const {
    double q = b_size_;
    for (int j = 0; j < n_ && x > 1; ++j) q *= x;
    const double ratio = q / a_size_;
    return (sizeof(R) == 8 ? DBL_MIN : FLT_MIN) * q * (ratio > 1 ? ratio : 1);
  }

  // The coefficients of all strips, in the layout of Block.
  bool fill_table() {
    const int64_t lanes = plan_.lanes;
    table_ = static_cast<R*>(malloc(sizeof(R) * plan_.strips * terms_ * lanes));
    if (!table_) return false;
    for (int64_t strip = 0; strip < plan_.strips; ++strip) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t group = lanes == 1 ? strip : plan_.group_of_lane(strip, lane);
        R* out = table_ + strip * terms_ * lanes + lane;
        for (int i = 0; i <= m_; ++i) out[i * lanes] = plain(a(group)[i]);
        for (int j = 0; j < n_; ++j) {
          const R value = plain(b(group)[j]);
          out[(m_ + 1 + j) * lanes] =
              call_.form == kFormA ? __builtin_fabs(value) : signed_zero(value);
        }
      }
    }
    return true;
  }

  // A NaN without payload, as the kernels' rounding to bfloat16 needs.
  static R plain(R value) { return value == value ? value : R(__builtin_nan("")); }

  bool reserve_partial() {
    if (!call_.grad) return true;
    partial_ = static_cast<double*>(malloc(plan_.chunks * plan_.slots * terms_ * sizeof(double)));
    return partial_ != nullptr;
  }

  static void task(int64_t begin, int64_t end, void* context) {
    static_cast<Operation*>(context)->process_chunks(begin, end);
  }

  void process_chunks(int64_t begin, int64_t end) {
    Chunk chunk;
    chunk.sums = nullptr;
    const int64_t bytes = sizeof(R) * larger(plan_.strips, plan_.slots) * terms_ * plan_.width;
    if (call_.grad) {
      chunk.sums = static_cast<R*>(malloc(bytes));
      if (!chunk.sums) {
        failed_ = true;
        return;
      }
    }
    for (chunk.index = begin; chunk.index < end; ++chunk.index) {
      chunk.begin = chunk.index * plan_.chunk;
      chunk.end = smaller(chunk.begin + plan_.chunk, call_.count);
      chunk.grad_limit = 0;
      memset(chunk.largest, 0, sizeof chunk.largest);
      if (call_.grad) {
        backward(chunk, bytes);
      } else {
        forward(chunk);
      }
    }
    free(chunk.sums);
  }

  void forward(Chunk& chunk) {
    process_chunk(chunk, kernels_.forward, 0);
    if (call_.order) {
      if (!(largest(chunk) <= limit_)) out_of_range_ = true;
      return;
    }
    if (!(largest(chunk) <= limit_)) process_excluded(chunk, call_.x, in_gap_, limit_);
  }

  void backward(Chunk& chunk, int64_t bytes) {
    const Underflow underflow;
    process_chunk(chunk, kernels_.backward, bytes);
    const bool tiny = underflow.seen() && some_grad_is_tiny(chunk);
    const bool guarded = tiny || !(largest(chunk) <= limit_);
    if (call_.order) {
      if (guarded || !sums_are_finite(chunk)) out_of_range_ = true;
      return;
    }
    if (guarded) process_chunk(chunk, kernels_.guarded_backward, bytes);
    if (!sums_are_finite(chunk)) {
      clear_partial(chunk);
      process_excluded(chunk, call_.dx, out_gap_, kBelowAll);
    } else if (guarded) {
      process_excluded(chunk, call_.dx, out_gap_, __builtin_inf());
    }
  }

  // Sets the chunk's grad_limit. float16 has no smaller numbers than 2^-24. Of a gate, the product
  // of the smallest grad and the smallest v is the bound.
  bool some_grad_is_tiny(Chunk& chunk) const {
    const double x = largest(chunk), limit = least_grad(x <= limit_ ? x : limit_);
    if (call_.data_type == kFloat16 && limit <= (call_.v ? 0x1p-48 : 0x1p-24)) return false;
    chunk.grad_limit = limit;
    const double grad = kernels_.least(at(call_.grad, chunk.begin), chunk.end - chunk.begin);
    return (call_.v ? grad * least_v(chunk) : grad) < limit;
  }

  double least_v(const Chunk& chunk) const {
    double least = __builtin_inf();
    for (int64_t begin = chunk.begin; begin < chunk.end;) {
      const int64_t end = end_of_row(begin, chunk.end, in_gap_);
      const double found = kernels_.least(at(call_.v, begin, in_gap_), end - begin);
      if (found < least) least = found;
      begin = end;
    }
    return least;
  }

  void process_chunk(Chunk& chunk, Kernel kernel, int64_t bytes) {
    chunk.kernel = kernel;
    if (chunk.sums) {
      memset(chunk.sums, 0, bytes);
      clear_partial(chunk);
    }
    if (plan_.whole_periods) {
      process_periods(chunk);
    } else {
      process_runs(chunk);
    }
  }

  // The largest |x| of the chunk, or any that is NaN or beyond the limit.
  double largest(const Chunk& chunk) const {
    double found = 0;
    for (int64_t lane = 0; lane < plan_.width; ++lane) {
      const double size = chunk.largest[lane];
      if (!(size <= limit_)) return size;
      if (size > found) found = size;
    }
    return found;
  }

  bool sums_are_finite(const Chunk& chunk) const {
    const double* partial = partial_of(chunk, 0);
    double zero = 0;
    for (int64_t i = 0; i < plan_.slots * terms_; ++i) zero += partial[i] * 0;
    return zero == 0;
  }

  void clear_partial(const Chunk& chunk) const {
    memset(partial_of(chunk, 0), 0, sizeof(double) * plan_.slots * terms_);
  }

  double* partial_of(const Chunk& chunk, int64_t slot) const {
    return partial_ + (chunk.index * plan_.slots + slot) * terms_;
  }

  void process_periods(Chunk& chunk) {
    const int64_t rows = (chunk.end - chunk.begin) / plan_.period;
    const int64_t bytes = call_.grad ? kBackwardBytes : kForwardBytes;
    const int64_t step = larger(1, smaller(kShortSum / divide_up(plan_.run, plan_.width),
                                           bytes / (plan_.period * size_)));
    for (int64_t row = 0; row < rows; row += step) {
      const int64_t at = chunk.begin + row * plan_.period;
      process_block(chunk, at, smaller(step, rows - row), 0, plan_.strips, plan_.run, chunk.sums);
    }
    int64_t at = chunk.begin + rows * plan_.period;
    for (int64_t strip = 0; at < chunk.end; ++strip, at += plan_.run) {
      process_block(chunk, at, 1, strip, 1, smaller(plan_.run, chunk.end - at),
                    sums_of(chunk.sums, strip));
    }
    for (int64_t strip = 0; strip < plan_.strips; ++strip) {
      add_to_partial(chunk, strip, strip, sums_of(chunk.sums, strip));
    }
  }

  void process_runs(Chunk& chunk) {
    const int64_t first_run = chunk.begin / plan_.run;
    for (int64_t begin = chunk.begin; begin < chunk.end;) {
      const int64_t number = begin / plan_.run, group = number % plan_.groups;
      const int64_t stop = smaller(chunk.end, (number + 1) * plan_.run);
      R* own = sums_of(chunk.sums, number - first_run);
      for (int64_t at = begin; at < stop; at += kShortSum * plan_.width) {
        process_block(chunk, at, 1, group, 1, smaller(kShortSum * plan_.width, stop - at), own);
      }
      add_to_partial(chunk, group, number - first_run, own);
      begin = stop;
    }
  }

  // Processes one by one the elements of a chunk whose `values` are NaN or beyond the limit.
  void process_excluded(const Chunk& chunk, const char* values, int64_t gap, double limit) {
    for (int64_t begin = chunk.begin; begin < chunk.end;) {
      const int64_t stop = end_of_row(begin, chunk.end, gap);
      begin += kernels_.skip(at(values, begin, gap), stop - begin, limit);
      const int64_t end = smaller(begin + kSkip, stop);
      for (; begin < end; ++begin) {
        const double value = kernels_.load(at(values, begin, gap));
        if (!(__builtin_fabs(value) <= limit)) process_one(chunk, begin);
      }
    }
  }

  void process_one(const Chunk& chunk, int64_t offset) {
    const double x = kernels_.load(at(call_.x, offset, in_gap_));
    const double v = call_.v ? kernels_.load(at(call_.v, offset, in_gap_)) : 1;
    const double grad = call_.grad ? kernels_.load(at(call_.grad, offset)) : 0;
    const ScaledRational one = scaled(offset, x, Parts(grad, v));
    const bool beyond = !(__builtin_fabs(x) <= limit_);
    if (call_.y && beyond) kernels_.store(at(call_.y, offset), one.y * v);
    if (!call_.grad) return;
    if (call_.v && beyond) kernels_.store(at(call_.dv, offset, out_gap_), grad * one.y);
    char* const dx_at = at(call_.dx, offset, out_gap_);
    const double dx = kernels_.load(dx_at);
    if (dx != dx) kernels_.store(dx_at, one.dx);
    double* partial = partial_of(chunk, plan_.slot_of(chunk.index, offset));
    for (int k = 0; k < terms_; ++k) partial[k] = sum(partial[k], one.terms[k]);
  }

  ScaledRational scaled(int64_t offset, double x, const Parts& grad) const {
    const bool is_a = call_.form == kFormA;
    const int64_t group = plan_.group_of(offset);
    double a_row[kMaxDegree + 1], b_row[kMaxDegree + 1] = {0};
    for (int i = 0; i <= m_; ++i) a_row[i] = plain(a(group)[i]);
    for (int j = 0; j < n_; ++j) {
      const double value = plain(b(group)[j]);
      b_row[j + 1] = is_a ? __builtin_fabs(value) : signed_zero(value);
      if (value != 0 && !is_a) b_row[0] = -0.0;
    }
    return ScaledRational(a_row, m_, b_row, n_, is_a, x, grad);
  }

  // Processes `rows` rows of `strips` strips from element `offset` on, `length` of each strip.
  void process_block(Chunk& chunk, int64_t offset, int64_t rows, int64_t strip, int64_t strips,
                     int64_t length, R* sums) {
    const int64_t whole = length / plan_.width * plan_.width;
    Block block;
    block.rows = rows;
    block.stride = plan_.period;
    block.strips = strips;
    block.pitch = plan_.run;
    block.length = whole;
    block.ahead = strips == plan_.strips ? rows * plan_.period : length;
    block.coefficients = table_ + strip * terms_ * plan_.lanes;
    block.lanes = plan_.lanes;
    block.largest = chunk.largest;
    block.x_limit = limit_;
    block.grad_limit = chunk.grad_limit;
    block.sums = sums;
    block.m = m_;
    block.n = n_;
    block.order = int(call_.order);
    block.x = at(call_.x, offset, in_gap_);
    block.grad = at(call_.grad, offset);
    block.y = at(call_.y, offset);
    block.dx = at(call_.dx, offset, out_gap_);
    block.v = at(call_.v, offset, in_gap_);
    block.dv = at(call_.dv, offset, out_gap_);
    block.in_stride = plan_.period + in_gap_;  // with gaps a period is a row
    block.out_stride = plan_.period + out_gap_;
    if (whole) chunk.kernel(block);
    for (int64_t i = 0; whole < length && i < strips; ++i) {
      block.coefficients = table_ + (strip + i) * terms_ * plan_.lanes;
      block.sums = sums_of(sums, i);
      process_tails(chunk, block, offset + i * plan_.run + whole, length - whole);
    }
  }

  // Processes the tails of the rows of one strip, `count` elements each: copied, padded with zeros,
  // which add nothing to any sum, and copied back.
  void process_tails(const Chunk& chunk, Block block, int64_t offset, int64_t count) {
    alignas(64) char x[kTails] = {}, v[kTails] = {}, grad[kTails] = {};
    alignas(64) char y[kTails], dx[kTails], dv[kTails];
    const int64_t bytes = count * size_, padded = plan_.width * size_;
    for (int64_t row = 0; row < block.rows; ++row) {
      const int64_t i = offset + row * plan_.period;
      memcpy(x + row * padded, at(call_.x, i, in_gap_), bytes);
      if (call_.v) memcpy(v + row * padded, at(call_.v, i, in_gap_), bytes);
      if (block.grad) memcpy(grad + row * padded, at(call_.grad, i), bytes);
    }
    block.x = x;
    block.v = v;
    block.grad = block.grad ? grad : nullptr;
    block.y = block.y ? y : nullptr;
    block.dx = dx;
    block.dv = dv;
    block.stride = block.in_stride = block.out_stride = block.length = plan_.width;
    block.strips = 1;
    block.ahead = 0;
    chunk.kernel(block);
    for (int64_t row = 0; row < block.rows; ++row) {
      const int64_t i = offset + row * plan_.period;
      if (block.y) memcpy(at(call_.y, i), y + row * padded, bytes);
      if (block.grad) memcpy(at(call_.dx, i, out_gap_), dx + row * padded, bytes);
      if (block.grad && call_.v) memcpy(at(call_.dv, i, out_gap_), dv + row * padded, bytes);
    }
  }

  template <class Pointer>
  Pointer at(Pointer array, int64_t offset) const {
    return array ? array + offset * size_ : nullptr;
  }

  // The same where rows lie `gap` elements further apart.
  template <class Pointer>
  Pointer at(Pointer array, int64_t offset, int64_t gap) const {
    return at(array, gap ? offset + offset / call_.channels * gap : offset);
  }

  // The end of the contiguous elements from `offset` on.
  int64_t end_of_row(int64_t offset, int64_t end, int64_t gap) const {
    return gap ? smaller(end, (offset / call_.channels + 1) * call_.channels) : end;
  }

  R* sums_of(R* sums, int64_t strip) const {
    return sums ? sums + strip * terms_ * plan_.width : nullptr;
  }

  // Adds the lanes of a strip's sums to the chunk's partial sums, in float64.
  void add_to_partial(const Chunk& chunk, int64_t strip, int64_t slot, const R* sums) {
    if (!call_.grad) return;
    double* partial = partial_of(chunk, 0);
    for (int64_t lane = 0; lane < plan_.width;) {
      int64_t stop = plan_.width;
      if (plan_.lanes > 1) {
        const int64_t position = strip * plan_.width + lane;
        slot = position / plan_.group_run % plan_.groups;
        stop = smaller(stop, lane + plan_.group_run - position % plan_.group_run);
      }
      for (int k = 0; k < terms_; ++k) {
        partial[slot * terms_ + k] += sum(sums + k * plan_.width + lane, stop - lane);
      }
      lane = stop;
    }
  }

  // Infinities of opposite signs give infinity; only NaN gives NaN.
  static double sum(double a, double b) {
    const double both = a + b;
    return both != both && a == a && b == b ? a : both;
  }

  // In four strands, so that additions do not wait for each other.
  static double sum(const R* lanes, int64_t count) {
    double strands[4] = {};
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
      for (int j = 0; j < 4; ++j) strands[j] += lanes[i + j];
    }
    for (; i < count; ++i) strands[0] += lanes[i];
    return (strands[0] + strands[1]) + (strands[2] + strands[3]);
  }

  // da and db from the partial sums, in the order of the chunks, in float64.
  bool add_up() {
    double* total = static_cast<double*>(calloc(plan_.groups * terms_, sizeof(double)));
    if (!total) return false;
    for (int64_t index = 0; index < plan_.chunks; ++index) {
      for (int64_t slot = 0; slot < plan_.slots; ++slot) {
        const double* from = partial_ + (index * plan_.slots + slot) * terms_;
        double* to = total + plan_.group_of_slot(index, slot) * terms_;
        for (int k = 0; k < terms_; ++k) to[k] = sum(to[k], from[k]);
      }
    }
    for (int i = 0; i <= m_; ++i) gradient(total + i, nullptr, i, call_.da, call_.a_rows, m_ + 1);
    const R* signs = call_.form == kFormA ? b(0) : nullptr;
    for (int j = 0; j < n_; ++j) {
      negate(total + m_ + 1 + j);
      gradient(total + m_ + 1 + j, signs, j, call_.db, call_.b_rows, n_);
    }
    free(total);
    return true;
  }

  void negate(double* total) const {
    for (int64_t group = 0; group < plan_.groups; ++group) total[group * terms_] *= -1;
  }

  // One column of da or db; a shared row gets the sum over the groups. With `signs`: times sgn(b),
  // +1 at 0.
  void gradient(const double* total, const R* signs, int column, void* out, int64_t rows,
                int64_t columns) const {
    for (int64_t row = 0; row < rows; ++row) {
      double value = 0;
      const int64_t last = rows == 1 ? plan_.groups : row + 1;
      for (int64_t group = row; group < last; ++group) value = sum(value, total[group * terms_]);
      const bool flip = signs && signs[row * columns + column] < 0;
      static_cast<R*>(out)[row * columns + column] = R(flip ? -value : value);
    }
  }

  static constexpr int64_t kTails = kShortSum * kMaxVectorBytes;

  const RationalCall& call_;
  Kernels kernels_;
  int64_t size_;
  Plan plan_;
  int64_t in_gap_, out_gap_;
  int m_, n_, terms_;
  double limit_, a_size_, b_size_;
  R* table_;
  double* partial_;
  bool failed_;
  bool out_of_range_;  // a derivative would need scaled arithmetic, which it has not
};
int64_t vector_bytes(int64_t instruction_set) {
  return instruction_set == kAvx512 ? 64 : instruction_set == kAvx2 ? 32 : 16;
}

template <class R>
Status run(const RationalCall& call, int64_t size) {
  const int64_t groups = larger(call.a_rows, call.b_rows);
  const int64_t width = vector_bytes(call.instruction_set) / int64_t(sizeof(R));
  const bool apart = call.v && (call.in_stride != call.channels || call.out_stride != call.channels);
  const int64_t group_run = call.channel_stride * (call.channels / groups);
  const Plan plan(call.count, groups, group_run, width, apart);
  return Operation<R>(call, kernels(call), size, plan).run();
}

}  // namespace

// Identifies the source of this library, so that a stale one is never used.
KAT_EXPORT const char* kat_source_hash(void) { return KAT_SOURCE_HASH; }

// The instruction sets of this library, as a sum of 2^InstructionSet.
KAT_EXPORT int64_t kat_instruction_sets(void) {
#if defined(__x86_64__)
  return KAT_INSTRUCTION_SETS;
#else
  return KAT_INSTRUCTION_SETS & 1;
#endif
}

// F(x), F(x) v, or a derivative, or the gradients of one of them. Returns a Status; 0 is done.
KAT_EXPORT int32_t kat_rational(const RationalCall* call) {
  if (call->a_columns - 1 > kMaxDegree || call->b_columns > kMaxDegree) return kUnsupported;
  const bool is_16_bit = call->data_type == kBFloat16 || call->data_type == kFloat16;
  if (call->order > kMaxOrder || (call->order && (is_16_bit || call->v))) return kUnsupported;
  switch (call->data_type) {
    case kFloat32: return run<float>(*call, 4);
    case kBFloat16: case kFloat16: return run<float>(*call, 2);
    case kFloat64: return run<double>(*call, 8);
    default: return kUnsupported;
  }
}
