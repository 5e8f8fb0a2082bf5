/* A parallel_for on POSIX threads. It knows no network: one pool serves every library of a program,
 * one run at a time.
 *
 *     parc_pool *pool = parc_pool_start(4);          NULL: no memory or no threads
 *     ctx.threads = 4;  ctx.parallel_for = parc_pool_for;  ctx.user = pool;
 *     ... NAME_run(&ctx, ...) ...
 *     parc_pool_stop(pool);
 *
 * with these declarations in your program:
 *
 *     typedef struct parc_pool parc_pool;
 *     parc_pool *parc_pool_start(int threads);
 *     void parc_pool_for(void *pool, int32_t tasks, void (*fn)(void *, int32_t, int32_t), void *arg);
 *     void parc_pool_stop(parc_pool *pool);
 *
 * on_layer gets the pool as its `user`. Build: cc -std=c99 -O2 -c parallel_pthread.c, link with -pthread.
 * The builtins __atomic_* are those of gcc and clang.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

typedef void task_fn(void *arg, int32_t task, int32_t slot);

typedef struct parc_pool parc_pool;

parc_pool *parc_pool_start(int threads);
void parc_pool_for(void *pool, int32_t tasks, task_fn *fn, void *arg);
void parc_pool_stop(parc_pool *pool);

/* Polls before a thread sleeps: about 0.1 ms, longer than most layers that one thread computes alone.
 * Waking a thread can take that long too: then a second one is no help to networks of small layers. */
enum { POLLS = 100000 };

typedef struct {
    parc_pool *pool;
    pthread_t thread;
    int32_t slot;
} worker;

struct parc_pool {
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    int round;         /* counts calls of parc_pool_for; a change is the signal to work */
    int working;       /* workers that have not finished the round */
    int stop;
    int32_t next;      /* first task nobody has taken */
    int32_t tasks;
    task_fn *fn;
    void *arg;
    int started;
    worker workers[];  /* slots 1, 2, ...; slot 0 is the caller */
};

static void take_tasks(parc_pool *p, int32_t slot)
{
    int32_t task;
    while ((task = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED)) < p->tasks)
        p->fn(p->arg, task, slot);
}

static void *work(void *arg)
{
    worker *w = (worker *)arg;
    parc_pool *p = w->pool;
    int seen = 0, i;
    for (;;) {
        for (i = 0; i < POLLS && __atomic_load_n(&p->round, __ATOMIC_ACQUIRE) == seen; ++i)
            ;
        pthread_mutex_lock(&p->mutex);
        while (p->round == seen)
            pthread_cond_wait(&p->wake, &p->mutex);
        seen = p->round;
        pthread_mutex_unlock(&p->mutex);
        if (p->stop)
            return NULL;
        take_tasks(p, w->slot);
        if (__atomic_sub_fetch(&p->working, 1, __ATOMIC_ACQ_REL) == 0) {
            pthread_mutex_lock(&p->mutex); /* the caller is before its wait, or in it */
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->mutex);
        }
    }
}

static void begin_round(parc_pool *p)
{
    pthread_mutex_lock(&p->mutex);
    p->working = p->started;
    p->next = 0;
    __atomic_store_n(&p->round, p->round + 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
}

void parc_pool_for(void *pool, int32_t tasks, task_fn *fn, void *arg)
{
    parc_pool *p = (parc_pool *)pool;
    int i;
    p->tasks = tasks;
    p->fn = fn;
    p->arg = arg;
    begin_round(p);
    take_tasks(p, 0);
    for (i = 0; i < POLLS && __atomic_load_n(&p->working, __ATOMIC_ACQUIRE) != 0; ++i)
        ;
    pthread_mutex_lock(&p->mutex);
    while (__atomic_load_n(&p->working, __ATOMIC_ACQUIRE) != 0)
        pthread_cond_wait(&p->done, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
}

void parc_pool_stop(parc_pool *p)
{
    int i;
    if (!p)
        return;
    p->stop = 1;
    begin_round(p);
    for (i = 0; i < p->started; ++i)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mutex);
    free(p);
}

parc_pool *parc_pool_start(int threads)
{
    parc_pool *p;
    if (threads < 1)
        return NULL;
    p = (parc_pool *)calloc(1, sizeof *p + (size_t)threads * sizeof p->workers[0]);
    if (!p)
        return NULL;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    while (p->started < threads - 1) {
        worker *w = &p->workers[p->started];
        w->pool = p;
        w->slot = p->started + 1;
        if (pthread_create(&w->thread, NULL, work, w) != 0) {
            parc_pool_stop(p);
            return NULL;
        }
        ++p->started;
    }
    return p;
}
