/* Forced into every file of the ThreadSanitizer build: the family under other names, so that the sanitizer and the C
 * library keep the allocator that they know (ThreadSanitizer starts up inside malloc, and what it does to its own
 * memory would be reported as ours), while stress.c, which sees this header too, calls the library's. The macros also
 * rename the declarations in <stdlib.h> and <malloc.h>. The names are those of preload/exports.map. */
#define malloc slm_test_malloc
#define calloc slm_test_calloc
#define realloc slm_test_realloc
#define reallocarray slm_test_reallocarray
#define free slm_test_free
#define cfree slm_test_cfree
#define free_sized slm_test_free_sized
#define free_aligned_sized slm_test_free_aligned_sized
#define posix_memalign slm_test_posix_memalign
#define aligned_alloc slm_test_aligned_alloc
#define memalign slm_test_memalign
#define valloc slm_test_valloc
#define pvalloc slm_test_pvalloc
#define malloc_usable_size slm_test_malloc_usable_size
#define mallinfo slm_test_mallinfo
#define mallinfo2 slm_test_mallinfo2
#define mallopt slm_test_mallopt
#define malloc_trim slm_test_malloc_trim
#define malloc_stats slm_test_malloc_stats
#define malloc_info slm_test_malloc_info
#define __libc_malloc slm_test_libc_malloc
#define __libc_calloc slm_test_libc_calloc
#define __libc_realloc slm_test_libc_realloc
#define __libc_free slm_test_libc_free
#define __libc_memalign slm_test_libc_memalign
#define __libc_valloc slm_test_libc_valloc
#define __libc_pvalloc slm_test_libc_pvalloc
#define dlopen slm_test_dlopen
#define pthread_create slm_test_pthread_create
#define thrd_create slm_test_thrd_create

#define _Znwm slm_test_new
#define _Znam slm_test_new_array
#define _ZnwmRKSt9nothrow_t slm_test_new_nothrow
#define _ZnamRKSt9nothrow_t slm_test_new_array_nothrow
#define _ZnwmSt11align_val_t slm_test_new_aligned
#define _ZnamSt11align_val_t slm_test_new_array_aligned
#define _ZnwmSt11align_val_tRKSt9nothrow_t slm_test_new_aligned_nothrow
#define _ZnamSt11align_val_tRKSt9nothrow_t slm_test_new_array_aligned_nothrow
#define _ZdlPv slm_test_delete
#define _ZdaPv slm_test_delete_array
#define _ZdlPvRKSt9nothrow_t slm_test_delete_nothrow
#define _ZdaPvRKSt9nothrow_t slm_test_delete_array_nothrow
#define _ZdlPvm slm_test_delete_sized
#define _ZdaPvm slm_test_delete_array_sized
#define _ZdlPvSt11align_val_t slm_test_delete_aligned
#define _ZdaPvSt11align_val_t slm_test_delete_array_aligned
#define _ZdlPvSt11align_val_tRKSt9nothrow_t slm_test_delete_aligned_nothrow
#define _ZdaPvSt11align_val_tRKSt9nothrow_t slm_test_delete_array_aligned_nothrow
#define _ZdlPvmSt11align_val_t slm_test_delete_aligned_sized
#define _ZdaPvmSt11align_val_t slm_test_delete_array_aligned_sized
