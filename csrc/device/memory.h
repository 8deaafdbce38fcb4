// Loads and stores of global and shared memory.
//   V load(const V* p)                       through the read-only path: nobody writes *p during this launch
//   V load_if(bool on, const V* p[, V other])  other (default: zero) when off. The predicate is inside so that the
//   lanes store(V* p, V v), store_if(bool on, ...)   of a warp stay one request. as<V>(p) pointer cast; alignment is
//   checked at the access Shared<T>                                a view of shared memory: load(i), store(i, v),
//   load_as<V>(i), store_as(i, v), load_if(on, i), load_as_if<V>(on, i),
//                                            address(i) for ldmatrix and cp.async, s + n
//   dynamic_shared<T>(byte_offset, count)    the block's dynamic shared memory; FC_STATIC_SHARED(T, name, count) a
//   static array
// V is a scalar or a Vec of 1, 2, 4, 8 or 16 bytes, aligned to its size.
// Emulator: every access is checked for bounds, alignment and races, and counted.
#pragma once

#include "device/types.h"

#if defined(FASTCONV_EMULATOR)
#include "emulator/memory.h"
#endif

namespace fastconv::device {

template <class V, class T>
FC_HOST_DEVICE const V* as(const T* p) {
  return reinterpret_cast<const V*>(p);
}
template <class V, class T>
FC_HOST_DEVICE V* as(T* p) {
  return reinterpret_cast<V*>(p);
}

#if defined(FASTCONV_EMULATOR)

template <class V>
V load(const V* p, FC_SITE) {
  static_assert(is_word<V>);
  V value;
  emulator::load_global(&value, p, sizeof(V), site);
  return value;
}

template <class V>
V load_if(bool on, const V* p, V otherwise, FC_SITE) {
  static_assert(is_word<V>);
  if (on) {
    emulator::load_global(&otherwise, p, sizeof(V), site);
  } else {
    emulator::skip_global(sizeof(V), emulator::Access::load, site);
  }
  return otherwise;
}

template <class V>
V load_if(bool on, const V* p, FC_SITE) {
  return load_if(on, p, V{}, site);
}

template <class V>
void store(V* p, same_t<V> value, FC_SITE) {
  static_assert(is_word<V>);
  emulator::store_global(p, &value, sizeof(V), site);
}

template <class V>
void store_if(bool on, V* p, same_t<V> value, FC_SITE) {
  if (on) {
    store(p, value, site);
  } else {
    emulator::skip_global(sizeof(V), emulator::Access::store, site);
  }
}

template <class T>
class Shared {
 public:
  Shared() = default;
  explicit Shared(emulator::SharedSpan span) : span_(span) {}

  T load(int i, FC_SITE) const { return load_as<T>(i, site); }
  void store(int i, T value, FC_SITE) const { store_as(i, value, site); }

  template <class V>
  V load_as(int i, FC_SITE) const {
    static_assert(is_word<V>);
    V value;
    emulator::load_shared(&value, span_, int64_t(i) * int64_t(sizeof(T)), sizeof(V), site);
    return value;
  }
  template <class V>
  V load_as_if(bool on, int i, FC_SITE) const {
    if (on) return load_as<V>(i, site);
    emulator::skip_shared(sizeof(V), emulator::Access::load, site);
    return V{};
  }
  T load_if(bool on, int i, FC_SITE) const { return load_as_if<T>(on, i, site); }
  template <class V>
  void store_as(int i, V value, FC_SITE) const {
    static_assert(is_word<V>);
    emulator::store_shared(&value, span_, int64_t(i) * int64_t(sizeof(T)), sizeof(V), site);
  }
  uint32_t address(int i) const { return span_.address + uint32_t(i) * uint32_t(sizeof(T)); }
  Shared operator+(int n) const { return shifted(int64_t(n)); }
  Shared operator-(int n) const { return shifted(-int64_t(n)); }
  emulator::SharedSpan span() const { return span_; }

 private:
  Shared shifted(int64_t n) const {
    Shared moved = *this;
    moved.span_.address += uint32_t(n * int64_t(sizeof(T)));
    return moved;
  }
  emulator::SharedSpan span_;
};

template <class T>
Shared<T> dynamic_shared(int byte_offset = 0, int count = -1, FC_SITE) {
  return Shared<T>(emulator::dynamic_shared(byte_offset, count < 0 ? -1 : count * int64_t(sizeof(T)), site));
}

#define FC_STATIC_SHARED(T, name, count) \
  const ::fastconv::device::Shared<T> name(::fastconv::emulator::static_shared(int64_t(count) * int64_t(sizeof(T))))

#else

namespace detail {

// The register type that moves `Bytes` in one instruction.
template <int Bytes>
struct word;
template <>
struct word<1> {
  using type = unsigned char;
};
template <>
struct word<2> {
  using type = unsigned short;
};
template <>
struct word<4> {
  using type = unsigned;
};
template <>
struct word<8> {
  using type = uint2;
};
template <>
struct word<16> {
  using type = uint4;
};
template <class V>
using word_t = typename word<int(sizeof(V))>::type;

// By value: a reference into shared memory would be copied byte by byte.
template <class To, class From>
FC_DEVICE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

FC_DEVICE unsigned char* dynamic_shared_base() {
  extern __shared__ __align__(1024) unsigned char fastconv_dynamic_shared[];
  return fastconv_dynamic_shared;
}

}  // namespace detail

template <class V>
FC_DEVICE V load(const V* p) {
  return detail::bits<V>(__ldg(reinterpret_cast<const detail::word_t<V>*>(p)));
}

template <class V>
FC_DEVICE V load_if(bool on, const V* p, V otherwise) {
  return on ? load(p) : otherwise;
}
template <class V>
FC_DEVICE V load_if(bool on, const V* p) {
  return on ? load(p) : V{};
}

template <class V>
FC_DEVICE void store(V* p, same_t<V> value) {
  *reinterpret_cast<detail::word_t<V>*>(p) = detail::bits<detail::word_t<V> >(value);
}
template <class V>
FC_DEVICE void store_if(bool on, V* p, same_t<V> value) {
  if (on) store(p, value);
}

// A plain pointer: the compiler sees that it points to shared memory and emits LDS and STS.
template <class T>
class Shared {
 public:
  FC_DEVICE Shared() : p_(nullptr) {}
  FC_DEVICE explicit Shared(T* p) : p_(p) {}
  FC_DEVICE T load(int i) const { return p_[i]; }
  FC_DEVICE void store(int i, T value) const { p_[i] = value; }
  template <class V>
  FC_DEVICE V load_as(int i) const {
    return detail::bits<V>(*reinterpret_cast<const detail::word_t<V>*>(p_ + i));
  }
  template <class V>
  FC_DEVICE V load_as_if(bool on, int i) const {
    return on ? load_as<V>(i) : V{};
  }
  FC_DEVICE T load_if(bool on, int i) const { return on ? load(i) : T{}; }
  template <class V>
  FC_DEVICE void store_as(int i, V value) const {
    *reinterpret_cast<detail::word_t<V>*>(p_ + i) = detail::bits<detail::word_t<V> >(value);
  }
  FC_DEVICE uint32_t address(int i) const { return uint32_t(__cvta_generic_to_shared(p_ + i)); }
  FC_DEVICE Shared operator+(int n) const { return Shared(p_ + n); }
  FC_DEVICE Shared operator-(int n) const { return Shared(p_ - n); }
  FC_DEVICE T* pointer() const { return p_; }

 private:
  T* p_;
};

template <class T>
FC_DEVICE Shared<T> dynamic_shared(int byte_offset = 0, int = -1) {
  return Shared<T>(reinterpret_cast<T*>(detail::dynamic_shared_base() + byte_offset));
}

#define FC_STATIC_SHARED(T, name, count)            \
  __shared__ __align__(16) T name##_storage[count]; \
  const ::fastconv::device::Shared<T> name(name##_storage)

#endif

}  // namespace fastconv::device
