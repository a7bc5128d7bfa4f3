/* Per-CPU memory as C++ programs would wrap it: an object of a type, and a counter. Two files include it, so that the
 * linker meets each template, and the calls that are compiled into it, twice. */
#ifndef CONTRACT_PERCPU_CXX_H
#define CONTRACT_PERCPU_CXX_H

#include <new>
#include <slabmalloc.h>

/* A T for each CPU, zero at first. */
template <class T> class per_cpu
{
  public:
    per_cpu() : object(slab_percpu_alloc(sizeof(T), alignof(T)))
    {
        if (object == nullptr)
            throw std::bad_alloc();
    }
    ~per_cpu() { slab_percpu_free(object); }
    per_cpu(const per_cpu &) = delete;
    per_cpu &operator=(const per_cpu &) = delete;

    T &operator[](int cpu) const { return *static_cast<T *>(slab_percpu_ptr(object, cpu)); }
    T &here() const { return *static_cast<T *>(slab_percpu_this(object)); }

    template <class Function> void for_each(Function function) const
    {
        T *copy;
        slab_percpu_for_each (cpu, copy, object)
            function(cpu, *copy);
    }

  protected:
    slab_percpu object;
};

template <class Number> class per_cpu_counter : public per_cpu<Number>
{
  public:
    void operator+=(long value) { slab_percpu_add_long(this->object, value); }
    operator long() const { return slab_percpu_sum_long(this->object); }
};

inline void bump_twice(slab_percpu object)
{
    slab_percpu_add_u64(object, 1);
    slab_percpu_add_u64(object, 1);
}

/* The same in the other file (percpu_second.cc). */
void second_adds(per_cpu_counter<long> &counter, long times);
void second_bumps(slab_percpu object, long times);
int second_copies(const per_cpu<short> &object);

#endif
