// The arithmetic for one instruction set. This file is compiled once for each, with KAT_SET, an
// InstructionSet, defined. Vectors are the GNU extension of GCC and Clang, so only the conversions of
// 16-bit types name instructions.

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.h"

// "Compile what follows for this processor", as Clang and GCC spell it.
#define KAT_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define KAT_TARGET_BEGIN(isa) \
  KAT_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define KAT_TARGET_END KAT_PRAGMA(clang attribute pop)
#else
#define KAT_TARGET_BEGIN(isa) KAT_PRAGMA(GCC push_options) KAT_PRAGMA(GCC target(isa))
#define KAT_TARGET_END KAT_PRAGMA(GCC pop_options)
#endif

#if KAT_SET == 0
#define KAT_ISA baseline
#define KAT_VECTOR_BYTES 16
#undef KAT_TARGET_END
#define KAT_TARGET_END
#elif KAT_SET == 1 && defined(__x86_64__)
#define KAT_ISA avx2
#define KAT_VECTOR_BYTES 32
KAT_TARGET_BEGIN("avx2,fma,f16c")
#elif KAT_SET == 2 && defined(__x86_64__)
#define KAT_ISA avx512
#define KAT_VECTOR_BYTES 64
KAT_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prfchw")
#endif

#ifdef KAT_ISA

#define KAT_ALWAYS_INLINE inline __attribute__((always_inline))
#define KAT_INLINE static KAT_ALWAYS_INLINE
#define KAT_LAMBDA __attribute__((always_inline))

namespace kat {
namespace KAT_ISA {
namespace {

constexpr int kToWrite = 1;  // for __builtin_prefetch

typedef float VFloat __attribute__((vector_size(KAT_VECTOR_BYTES)));
typedef double VDouble __attribute__((vector_size(KAT_VECTOR_BYTES)));
typedef int32_t VInt32 __attribute__((vector_size(KAT_VECTOR_BYTES)));
typedef int64_t VInt64 __attribute__((vector_size(KAT_VECTOR_BYTES)));
typedef uint32_t VUint32 __attribute__((vector_size(KAT_VECTOR_BYTES)));
typedef uint64_t VUint64 __attribute__((vector_size(KAT_VECTOR_BYTES)));
typedef uint16_t VUint16 __attribute__((vector_size(KAT_VECTOR_BYTES / 2)));

template <class To, class From>
KAT_INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

KAT_INLINE VUint32 select(VInt32 where, VUint32 yes, VUint32 no) {
  const VUint32 mask = bits<VUint32>(where);
  return (yes & mask) | (no & ~mask);
}

// 16-bit integers to and from 32-bit ones; __builtin_convertvector would split them in halves.
#if KAT_VECTOR_BYTES == 64
KAT_INLINE VUint32 widen(VUint16 v) { return bits<VUint32>(_mm512_cvtepu16_epi32(bits<__m256i>(v))); }
KAT_INLINE VUint16 narrow(VUint32 v) { return bits<VUint16>(_mm512_cvtepi32_epi16(bits<__m512i>(v))); }
#elif KAT_VECTOR_BYTES == 32
KAT_INLINE VUint32 widen(VUint16 v) { return bits<VUint32>(_mm256_cvtepu16_epi32(bits<__m128i>(v))); }
KAT_INLINE VUint16 narrow(VUint32 v) {
  const __m256i packed = _mm256_packus_epi32(bits<__m256i>(v), bits<__m256i>(v));
  return bits<VUint16>(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 8)));
}
#else
KAT_INLINE VUint32 widen(VUint16 v) { return __builtin_convertvector(v, VUint32); }
KAT_INLINE VUint16 narrow(VUint32 v) { return __builtin_convertvector(v, VUint16); }
#endif

// ---- storage types: how a vector is loaded and stored, and the type of its arithmetic

// Stored as it is computed with.
template <typename ElementType, typename VectorType, typename BitsType, typename UnsignedType>
struct Direct {
  typedef ElementType Element;
  typedef VectorType Vector;
  typedef BitsType Bits;
  typedef UnsignedType Unsigned;
  KAT_INLINE Vector load(const Element* from) {
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
  }
  KAT_INLINE void store(Element* to, Vector v) { memcpy(to, &v, sizeof v); }
};

typedef Direct<float, VFloat, VInt32, VUint32> Float32;
typedef Direct<double, VDouble, VInt64, VUint64> Float64;

struct BFloat16 {
  typedef uint16_t Element;
  typedef VFloat Vector;
  typedef VInt32 Bits;
  typedef VUint32 Unsigned;
  KAT_INLINE Vector load(const Element* from) {
    VUint16 half;
    memcpy(&half, from, sizeof half);
    return bits<VFloat>(widen(half) << 16);
  }
  // Rounds to nearest, ties to even. A NaN stays NaN: rounding could only carry from bits below
  // bfloat16's, and no NaN here has any. It comes from a bfloat16, a coefficient (see fill_table)
  // or an instruction, and instructions keep the payload of an operand.
  KAT_INLINE void store(Element* to, Vector v) {
    const VUint32 whole = bits<VUint32>(v);
    const VUint16 half = narrow((whole + 0x7fffu + ((whole >> 16) & 1u)) >> 16);
    memcpy(to, &half, sizeof half);
  }
};

struct Float16 {
  typedef uint16_t Element;
  typedef VFloat Vector;
  typedef VInt32 Bits;
  typedef VUint32 Unsigned;
#if KAT_VECTOR_BYTES == 64
  KAT_INLINE Vector load(const Element* from) {
    return bits<VFloat>(_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from)));
  }
  KAT_INLINE void store(Element* to, Vector v) {
    _mm256_storeu_si256((__m256i*)to,
                        _mm512_cvtps_ph(bits<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
  }
#elif KAT_VECTOR_BYTES == 32
  KAT_INLINE Vector load(const Element* from) {
    return bits<VFloat>(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from)));
  }
  KAT_INLINE void store(Element* to, Vector v) {
    _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph(bits<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
  }
#else
  // Moves the 5 bits of the exponent to those of float32; the factor 2^112 corrects the bias, for
  // subnormal numbers too.
  KAT_INLINE Vector load(const Element* from) {
    VUint16 half;
    memcpy(&half, from, sizeof half);
    const VUint32 whole = widen(half);
    const VUint32 magnitude = whole & 0x7fffu;
    const VUint32 finite = bits<VUint32>(bits<VFloat>(magnitude << 13) * 0x1p112f);
    const VUint32 special = (magnitude << 13) | 0x7f800000u;
    return bits<VFloat>(select(magnitude >= 0x7c00u, special, finite) | ((whole & 0x8000u) << 16));
  }
  // Rounds to nearest, ties to even: in integers for a normal result, and for a subnormal one by
  // adding 1/2, whose last place is float16's smallest number.
  KAT_INLINE void store(Element* to, Vector v) {
    const VUint32 whole = bits<VUint32>(v);
    const VUint32 magnitude = whole & 0x7fffffffu;
    const VUint32 normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
    const VUint32 subnormal = bits<VUint32>(bits<VFloat>(magnitude) + 0.5f) - 0x3f000000u;
    VUint32 result = select(magnitude < 0x38800000u, subnormal, normal);
    result = select(magnitude >= 0x47800000u, VUint32{} + 0x7c00u, result);
    result = select(magnitude > 0x7f800000u, VUint32{} + 0x7e00u, result);
    const VUint16 half = narrow(result | ((whole >> 16) & 0x8000u));
    memcpy(to, &half, sizeof half);
  }
#endif
};

// ---- degrees: known at compile time, or read from the block

template <int M, int N>
struct FixedDegrees {
  static constexpr int m_room = M, n_room = N;
  explicit FixedDegrees(const Block&) {}
  static constexpr int m() { return M; }
  static constexpr int n() { return N; }
};

struct AnyDegrees {
  static constexpr int m_room = kMaxDegree, n_room = kMaxDegree;
  explicit AnyDegrees(const Block& block) : m_(block.m), n_(block.n) {}
  int m() const { return m_; }
  int n() const { return n_; }
  int m_, n_;
};

// ---- the function

template <class V>
struct ValueAndSlope {
  V value, slope;
};

// p(x) = c_0 + ... + c_degree x^degree and p'(x), by Horner's rule.
template <class V>
KAT_INLINE ValueAndSlope<V> polynomial(V x, const V* c, int degree) {
  if (degree == 0) return {c[0], V{}};
  V value = c[degree] * x + c[degree - 1];
  V slope = c[degree];
  for (int i = degree - 2; i >= 0; --i) {
    slope = slope * x + value;
    value = value * x + c[i];
  }
  return {value, slope};
}

template <class T>
KAT_INLINE constexpr int64_t width_of() {
  return sizeof(typename T::Vector) / sizeof(typename T::Bits{}[0]);
}

template <class T>
KAT_INLINE typename T::Vector sign_bit() {
  return -typename T::Vector{};
}

template <class T>
KAT_INLINE typename T::Vector absolute(typename T::Vector v) {
  typedef typename T::Bits Bits;
  return bits<typename T::Vector>(bits<Bits>(v) & ~bits<Bits>(sign_bit<T>()));
}

// v with its sign flipped where `mask` has its sign bit set.
template <class T>
KAT_INLINE typename T::Vector flip(typename T::Vector v, typename T::Bits mask) {
  typedef typename T::Bits Bits;
  return bits<typename T::Vector>(bits<Bits>(v) ^ (mask & bits<Bits>(sign_bit<T>())));
}

// The largest |x| in each lane, where NaN is the largest, at one instruction a vector: as integers,
// the bits of |x| are ordered like |x|.
template <class T>
struct Largest {
  typedef typename T::Bits Bits;

  Bits size;

  KAT_ALWAYS_INLINE explicit Largest(const void* from) {
    memcpy(&size, from, sizeof size);
  }

  KAT_ALWAYS_INLINE void see(typename T::Vector x) {
    const Bits next = bits<Bits>(absolute<T>(x));
    size = next > size ? next : size;
  }

  KAT_ALWAYS_INLINE void store(void* to) const {
    memcpy(to, &size, sizeof size);
  }
};

// The smallest nonzero |v| in each lane.
template <class T>
struct Least {
  typedef typename T::Unsigned Unsigned;

  Unsigned size = ~Unsigned{};  // 2 |v| - 1 in the bits of v: largest for 0

  KAT_ALWAYS_INLINE void see(typename T::Vector v) {
    const Unsigned next = bits<Unsigned>(v) * 2 - 1;
    size = next < size ? next : size;
  }

  // Infinity if there was none.
  KAT_ALWAYS_INLINE double over_lanes() const {
    double least = __builtin_inf();
    const typename T::Vector v = bits<typename T::Vector>((size + 1) >> 1);
    for (int64_t lane = 0; lane < width_of<T>(); ++lane) {
      if (v[lane] > 0 && v[lane] < least) least = v[lane];
    }
    return least;
  }
};

// A policy of the backward kernel: tracks the largest |x| and changes nothing.
template <class T>
struct Track {
  typedef typename T::Vector V;

  Largest<T> largest;

  KAT_ALWAYS_INLINE explicit Track(const Block& block)
      : largest(block.largest) {}

  KAT_ALWAYS_INLINE void see(V& x, V&, typename T::Bits) { largest.see(x); }

  KAT_ALWAYS_INLINE V mark(V dx) const { return dx; }

  KAT_ALWAYS_INLINE void store(const Block& block) const {
    largest.store(block.largest);
  }
};

// The other policy: excludes the elements beyond the block's limits, and NaN. They add nothing to
// the sums, and NaN in dx marks them. Their y is right where x is within its limit.
template <class T>
struct Guard {
  typedef typename T::Vector V;
  typedef typename T::Bits Bits;
  typedef decltype(V{}[0] + 0) Real;

  V x_limit, grad_limit;
  Bits within{};

  KAT_ALWAYS_INLINE explicit Guard(const Block& block)
      : x_limit(V{} + Real(block.x_limit)), grad_limit(V{} + Real(block.grad_limit)) {}

  // `zero`: where grad is exactly zero.
  KAT_ALWAYS_INLINE void see(V& x, V& grad, Bits zero) {
    const Bits near = absolute<T>(x) <= x_limit;
    within = near & ((absolute<T>(grad) >= grad_limit) | zero);
    x = bits<V>(bits<Bits>(x) & near);
    grad = bits<V>(bits<Bits>(grad) & within);
  }

  KAT_ALWAYS_INLINE V mark(V dx) const {
    const V nan = V{} + Real(__builtin_nan(""));
    return bits<V>((bits<Bits>(dx) & within) | (bits<Bits>(nan) & ~within));
  }

  KAT_ALWAYS_INLINE void store(const Block&) const {}
};

// F and its gradient with the coefficients of one strip, a vector at a time.
template <class T, bool kIsA, class Degrees>
struct Rational {
  typedef typename T::Vector V;
  typedef typename T::Bits Bits;

  static constexpr int room = Degrees::m_room + 1 + Degrees::n_room;  // for the sums

  Degrees degrees;
  V a[Degrees::m_room + 1];
  V c[Degrees::n_room + 1];  // form A: of Q, c_0 = 1; form B: of s, where c_0 is
                             // the zero that signed_zero() describes

  KAT_ALWAYS_INLINE Rational(const Block& block, int64_t strip)
      : degrees(block) {
    typedef decltype(V{}[0] + 0) Real;
    const int64_t size = (degrees.m() + 1 + degrees.n()) * block.lanes;
    const Real* from = static_cast<const Real*>(block.coefficients) + strip * size;
    for (int i = 0; i <= degrees.m(); ++i, from += block.lanes) a[i] = spread(from, block.lanes);
    Bits some{};
    for (int j = 1; j <= degrees.n(); ++j, from += block.lanes) {
      c[j] = spread(from, block.lanes);
      some |= c[j] != 0;
    }
    c[0] = kIsA ? V{} + 1 : flip<T>(V{}, some);
  }

  template <class Real>
  KAT_INLINE V spread(const Real* from, int64_t lanes) {
    V v = *from - V{};  // with +, a zero would lose its sign
    if (lanes > 1) memcpy(&v, from, sizeof v);
    return v;
  }

  // Q in form A, s in form B, and the slope with respect to u.
  KAT_ALWAYS_INLINE ValueAndSlope<V> inner(V x) const {
    return polynomial(kIsA ? absolute<T>(x) : x, c, degrees.n());
  }

  KAT_INLINE V denominator(V inner) { return kIsA ? inner : 1 + absolute<T>(inner); }

  KAT_ALWAYS_INLINE V value(V x) const {
    return polynomial(x, a, degrees.m()).value / denominator(inner(x).value);
  }

  // Returns dx = w (P' - y Q') for r = 1/Q, y = P r, w = grad r. Adds w x^i to sums[i], i = 0..m,
  // and w y dQ/d|b_j| (form A) or w y dQ/db_j (form B) to sums[m + j], j = 1..n. Subgradients:
  // Q' = 0 at x = 0 in form A; d|s|/ds = +1 at s = 0 in form B.
  KAT_ALWAYS_INLINE V gradient(V x, V grad, V* sums, V& y) const {
    const ValueAndSlope<V> p = polynomial(x, a, degrees.m());
    const ValueAndSlope<V> q = inner(x);
    const V r = 1 / denominator(q.value);
    y = p.value * r;
    const V w = grad * r;
    V slope = q.slope, signed_y = y;
    if (kIsA) {
      const Bits nonzero = x != 0;
      slope = bits<V>(bits<Bits>(flip<T>(slope, bits<Bits>(x))) & nonzero);
    } else {
      // See signed_zero(). The bits of |x|, negated as an integer, have a sign bit unless x = 0.
      signed_y = flip<T>(y, bits<Bits>(q.value) & -bits<Bits>(absolute<T>(x)));
    }
    V term = w;
    sums[0] += term;
    for (int i = 1; i <= degrees.m(); ++i) sums[i] += term *= x;
    const V u = kIsA ? absolute<T>(x) : x;
    term = w * signed_y;
    for (int j = 1; j <= degrees.n(); ++j) sums[degrees.m() + j] += term *= u;
    return w * (p.slope - signed_y * slope);
  }
};

// ---- the loops over a block

// A block's arrays at the start of one row of one strip.
template <class T, bool kGated>
struct Place {
  typedef typename T::Element Element;

  const Element* x;
  const Element* v;
  const Element* grad;
  Element* y;
  Element* dx;
  Element* dv;

  KAT_ALWAYS_INLINE Place(const Block& block, int64_t row, int64_t strip) {
    const int64_t first = strip * block.pitch, at = row * block.stride + first;
    const int64_t in = kGated ? row * block.in_stride + first : at;
    const int64_t out = kGated ? row * block.out_stride + first : at;
    x = (const Element*)block.x + in;
    v = kGated ? (const Element*)block.v + in : nullptr;
    grad = (const Element*)block.grad + at;
    y = block.y ? (Element*)block.y + at : nullptr;
    dx = (Element*)block.dx + out;
    dv = kGated ? (Element*)block.dv + out : nullptr;
  }
};

// y = F(x), or F(x) v where gated. `F`: Rational, or Derivative.
template <class T, class F, bool kGated>
void forward(const Block& block) {
  typedef typename T::Vector V;
  Largest<T> largest(block.largest);
  for (int64_t strip = 0; strip < block.strips; ++strip) {
    const F function(block, strip);
    for (int64_t row = 0; row < block.rows; ++row) {
      const Place<T, kGated> at(block, row, strip);
      for (int64_t i = 0; i < block.length; i += width_of<T>()) {
        __builtin_prefetch(at.x + i + block.ahead);
        if (kGated) __builtin_prefetch(at.v + i + block.ahead);
        __builtin_prefetch(at.y + i + block.ahead, kToWrite);
        const V x = T::load(at.x + i);
        largest.see(x);
        const V y = function.value(x);
        T::store(at.y + i, kGated ? y * T::load(at.v + i) : y);
      }
    }
  }
  largest.store(block.largest);
}

// Adds the sums of a strip to those at `total`; returns where those of the next strip are.
template <class V>
KAT_INLINE char* add_to(char* total, const V* sums, int terms) {
  for (int k = 0; k < terms; ++k, total += sizeof(V)) {
    V sum;
    memcpy(&sum, total, sizeof sum);
    sum += sums[k];
    memcpy(total, &sum, sizeof sum);
  }
  return total;
}

// The gradients, where gated dx = grad v F'(x), dv = grad F(x), and those of the coefficients for the
// gradient grad v of F. The sums stay in registers from the first row of a strip to the last.
template <class T, class F, bool kGated, class Policy>
void backward(const Block& block) {
  typedef typename T::Vector V;
  char* total = static_cast<char*>(block.sums);
  Policy policy(block);
  for (int64_t strip = 0; strip < block.strips; ++strip) {
    const F function(block, strip);
    const int terms = function.degrees.m() + 1 + function.degrees.n();
    V sums[F::room], y;
    for (int k = 0; k < terms; ++k) sums[k] = V{};
    for (int64_t row = 0; row < block.rows; ++row) {
      const Place<T, kGated> at(block, row, strip);
      for (int64_t i = 0; i < block.length; i += width_of<T>()) {
        __builtin_prefetch(at.x + i + block.ahead);
        if (kGated) __builtin_prefetch(at.v + i + block.ahead);
        __builtin_prefetch(at.grad + i + block.ahead);
        __builtin_prefetch(at.dx + i + block.ahead, kToWrite);
        if (kGated) __builtin_prefetch(at.dv + i + block.ahead, kToWrite);
        V x = T::load(at.x + i);
        const V grad = T::load(at.grad + i);
        const V v = kGated ? T::load(at.v + i) : V{};
        V f_grad = kGated ? grad * v : grad;
        // A product that underflows is no exact zero.
        policy.see(x, f_grad, kGated ? (grad == 0) | (v == 0) : grad == 0);
        T::store(at.dx + i, policy.mark(function.gradient(x, f_grad, sums, y)));
        if (kGated) T::store(at.dv + i, grad * y);
        if (at.y) T::store(at.y + i, kGated ? y * v : y);
      }
    }
    total = add_to(total, sums, terms);
  }
  policy.store(block);
}

#include "derivative.inc"

// The smallest nonzero |v| of these elements; infinity if there is none.
template <class T>
double least(const char* from, int64_t count) {
  typedef typename T::Element Element;
  const Element* v = (const Element*)from;
  Least<T> found;
  int64_t i = 0;
  for (; i + width_of<T>() <= count; i += width_of<T>()) found.see(T::load(v + i));
  Element rest[width_of<T>()] = {};
  memcpy(rest, v + i, (count - i) * sizeof(Element));
  found.see(T::load(rest));
  return found.over_lanes();
}

// How many of the first elements are certainly within the limit: a multiple of kSkip, up to the
// first kSkip elements that hold one beyond it, or NaN, or that are not complete.
template <class T>
int64_t skip(const char* from, int64_t count, double limit) {
  typedef typename T::Vector V;
  typedef typename T::Element Element;
  const Element* x = (const Element*)from;
  int64_t done = 0;
  for (; done + kSkip <= count; done += kSkip) {
    const typename T::Bits none = {};
    Largest<T> largest(&none);
    for (int64_t i = 0; i < kSkip; i += width_of<T>()) largest.see(T::load(x + done + i));
    const V size = bits<V>(largest.size);
    bool within = true;
    for (int64_t lane = 0; lane < width_of<T>(); ++lane) within &= size[lane] <= limit;
    if (!within) break;
  }
  return done;
}

// One element in float64, and back.
template <class T>
double load_one(const char* from) {
  typename T::Element padded[width_of<T>()] = {};
  memcpy(padded, from, sizeof padded[0]);
  return T::load(padded)[0];
}

template <class T>
void store_one(char* to, double value) {
  typename T::Element padded[width_of<T>()];
  T::store(padded, typename T::Vector{} + decltype(typename T::Vector{}[0] + 0)(value));
  memcpy(to, padded, sizeof padded[0]);
}

template <class T, class F, bool kGated = false>
Kernels kernels_of() {
  return {forward<T, F, kGated>, backward<T, F, kGated, Track<T>>, backward<T, F, kGated, Guard<T>>,
          least<T>, skip<T>, load_one<T>, store_one<T>};
}

// No derivative is guarded: what is out of range is not computed again.
template <class T, class F>
Kernels derivative_kernels_of() {
  return {forward<T, F, false>, backward<T, F, false, Track<T>>, nullptr,
          least<T>, skip<T>, load_one<T>, store_one<T>};
}

template <class T, bool kIsA>
Kernels kernels_for_degrees(int m, int n, bool gated) {
  typedef Rational<T, kIsA, FixedDegrees<5, 4>> Usual;
  typedef Rational<T, kIsA, AnyDegrees> Any;
  if (m == 5 && n == 4) return gated ? kernels_of<T, Usual, true>() : kernels_of<T, Usual>();
  return gated ? kernels_of<T, Any, true>() : kernels_of<T, Any>();
}

template <class T>
Kernels kernels_for_form(int64_t form, int m, int n, bool gated) {
  return form == kFormA ? kernels_for_degrees<T, true>(m, n, gated)
                        : kernels_for_degrees<T, false>(m, n, gated);
}

template <class T>
Kernels derivative_kernels_for(int64_t form) {
  return form == kFormA ? derivative_kernels_of<T, Derivative<T, true>>()
                        : derivative_kernels_of<T, Derivative<T, false>>();
}

}  // namespace

Kernels kernels(int64_t data_type, int64_t form, int m, int n, bool gated) {
  switch (data_type) {
    case kBFloat16: return kernels_for_form<BFloat16>(form, m, n, gated);
    case kFloat16: return kernels_for_form<Float16>(form, m, n, gated);
    case kFloat64: return kernels_for_form<Float64>(form, m, n, gated);
    default: return kernels_for_form<Float32>(form, m, n, gated);
  }
}

Kernels derivative_kernels(int64_t data_type, int64_t form) {
  return data_type == kFloat64 ? derivative_kernels_for<Float64>(form)
                               : derivative_kernels_for<Float32>(form);
}

}  // namespace KAT_ISA
}  // namespace kat

KAT_TARGET_END
#endif
