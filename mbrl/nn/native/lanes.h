// Vectors of kBytes bytes, which the file that includes this has to set beforehand.

#pragma once

#include <cstring>
#include <utility>

#if defined(__GNUC__)
#define MBRL_INLINE inline __attribute__((always_inline))
#define MBRL_UNROLL _Pragma("GCC unroll 16")
#else
#define MBRL_UNROLL
#define MBRL_INLINE inline
#endif

namespace mbrl {
namespace {

template <class T>
constexpr int kLanes = kBytes / static_cast<int>(sizeof(T));

#if defined(__GNUC__)

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
  typedef type anywhere __attribute__((aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
MBRL_INLINE Vector<T> load(const T* at) {
  return *reinterpret_cast<const typename VectorOf<T>::anywhere*>(at);
}

template <class T>
MBRL_INLINE void store(T* at, const Vector<T>& v) {
  *reinterpret_cast<typename VectorOf<T>::anywhere*>(at) = v;
}

template <class T>
MBRL_INLINE Vector<T> all(T x) {
  return x - Vector<T>{};  // the compiler sees that nothing is subtracted
}

// Where ``active`` is not positive, zero; a NaN counts as positive.
template <class V>
MBRL_INLINE V cut(V value, V active) {
  return active <= 0 ? V{} : value;
}

#else

template <class T>
struct Vector {
  T lane[kLanes<T>];

  T& operator[](int i) { return lane[i]; }
  T operator[](int i) const { return lane[i]; }
  Vector& operator+=(const Vector& other) {
    for (int i = 0; i < kLanes<T>; i++) lane[i] += other.lane[i];
    return *this;
  }
  friend Vector operator*(const Vector& a, const Vector& b) {
    Vector c;
    for (int i = 0; i < kLanes<T>; i++) c.lane[i] = a.lane[i] * b.lane[i];
    return c;
  }
  friend Vector operator*(T a, const Vector& b) {
    Vector c;
    for (int i = 0; i < kLanes<T>; i++) c.lane[i] = a * b.lane[i];
    return c;
  }
};

template <class T>
MBRL_INLINE Vector<T> cut(const Vector<T>& value, const Vector<T>& active) {
  Vector<T> kept;
  for (int i = 0; i < kLanes<T>; i++) kept.lane[i] = active.lane[i] <= 0 ? 0 : value.lane[i];
  return kept;
}

template <class T>
MBRL_INLINE Vector<T> load(const T* at) {
  Vector<T> v;
  std::memcpy(v.lane, at, sizeof v.lane);
  return v;
}

template <class T>
MBRL_INLINE void store(T* at, const Vector<T>& v) {
  std::memcpy(at, v.lane, sizeof v.lane);
}

template <class T>
MBRL_INLINE Vector<T> all(T x) {
  Vector<T> v;
  for (int i = 0; i < kLanes<T>; i++) v.lane[i] = x;
  return v;
}

#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define MBRL_SHUFFLES
#endif
#endif

// Sums of neighbours: those of a in the first half, those of b in the second.
template <class T, int... I>
MBRL_INLINE Vector<T> halved(const Vector<T>& a, const Vector<T>& b,
                             std::integer_sequence<int, I...>) {
#if defined(MBRL_SHUFFLES)
  return __builtin_shufflevector(a, b, (2 * I)...) + __builtin_shufflevector(a, b, (2 * I + 1)...);
#else
  const Vector<T>* of[] = {&a, &b};
  Vector<T> sum;
  ((sum[I] = (*of[2 * I / kLanes<T>])[2 * I % kLanes<T>] +
             (*of[2 * I / kLanes<T>])[2 * I % kLanes<T> + 1]),
   ...);
  return sum;
#endif
}

template <class T>
MBRL_INLINE Vector<T> halved(const Vector<T>& a, const Vector<T>& b) {
  return halved<T>(a, b, std::make_integer_sequence<int, kLanes<T>>());
}

}  // namespace
}  // namespace mbrl
