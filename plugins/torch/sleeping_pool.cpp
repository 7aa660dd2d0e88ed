// SPDX-License-Identifier: Apache-2.0
#include "sleeping_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include <pthread.h>

namespace freqfusion {
namespace {

//! More would be a mistake of the caller, not a machine.
constexpr int32_t kMaxThreads = 1024;

//! One parallelFor in progress; lives on its caller's stack.
struct Call {
    void (*body)(void* context, int64_t index);
    void* context;
    int64_t count;
    int32_t seats;       //!< workers that may still join
    int32_t working = 0; //!< workers that joined and have not left
    std::atomic<int64_t> next{0};

    void work() noexcept
    {
        for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
            i = next.fetch_add(1, std::memory_order_relaxed)) {
            body(context, i);
        }
    }
};

class Pool {
  public:
    void run(Call& call) noexcept
    {
        // A list node on this stack frame: nothing here allocates once the threads exist.
        Place place{&call, nullptr};
        int32_t const helpers = call.seats; // workers change the field as soon as they see the call
        {
            std::lock_guard<std::mutex> const lock{mMutex};
            startThreads(helpers);
            place.next = mFirst;
            mFirst = &place;
        }
        for (int32_t i = 0; i < helpers; ++i) {
            mWork.notify_one();
        }
        call.work();
        std::unique_lock<std::mutex> lock{mMutex};
        remove(place); // nobody can join any more; wait for those who did
        mDone.wait(lock, [&call] { return call.working == 0; });
    }

  private:
    struct Place {
        Call* call;
        Place* next;
    };

    void startThreads(int32_t wanted) noexcept
    {
        try {
            for (; mThreads < wanted; ++mThreads) {
                std::thread{[this] { serve(); }}.detach();
            }
        } catch (std::system_error const&) {
            // The process may have no more threads; those it has, the caller's among them, do the work.
        }
    }

    void serve() noexcept
    {
        std::unique_lock<std::mutex> lock{mMutex};
        for (;;) {
            Call* call = nullptr;
            mWork.wait(lock, [this, &call] { return (call = openCall()) != nullptr; });
            --call->seats;
            ++call->working;
            lock.unlock();
            call->work();
            lock.lock();
            if (--call->working == 0) {
                mDone.notify_all();
            }
        }
    }

    [[nodiscard]] Call* openCall() const noexcept
    {
        for (Place* place = mFirst; place != nullptr; place = place->next) {
            Call& call = *place->call;
            if (call.seats > 0 && call.next.load(std::memory_order_relaxed) < call.count) {
                return &call;
            }
        }
        return nullptr;
    }

    void remove(Place const& gone) noexcept
    {
        Place** link = &mFirst;
        while (*link != &gone) {
            link = &(*link)->next;
        }
        *link = gone.next;
    }

    std::mutex mMutex;
    std::condition_variable mWork;
    std::condition_variable mDone;
    Place* mFirst = nullptr;
    int32_t mThreads = 0;
};

//! Never deleted: its threads sleep in it until the process ends.
std::atomic<Pool*> gPool{nullptr};

Pool* pool() noexcept
{
    static int const registered = pthread_atfork(nullptr, nullptr, [] {
        gPool.store(nullptr); // the parent's threads do not exist in the child, and its mutex may be held for ever
    });
    (void)registered;
    Pool* current = gPool.load();
    if (current == nullptr) {
        Pool* const fresh = new (std::nothrow) Pool;
        if (fresh != nullptr && gPool.compare_exchange_strong(current, fresh)) {
            return fresh;
        }
        delete fresh;
    }
    return current;
}

void parallelFor(void* seats, int64_t count, void (*body)(void*, int64_t), void* context)
{
    auto const wanted = static_cast<int64_t>(reinterpret_cast<intptr_t>(seats));
    Call call{body, context, count, static_cast<int32_t>(std::clamp<int64_t>(count - 1, 0, wanted))};
    Pool* const shared = call.seats > 0 ? pool() : nullptr;
    if (shared == nullptr) {
        call.work();
    } else {
        shared->run(call);
    }
}

} // namespace

ThreadPool sleepingPool(int32_t threads) noexcept
{
    int32_t const allowed = std::clamp(threads, 1, kMaxThreads);
    auto const seats = static_cast<intptr_t>(allowed - 1); // the caller's own thread is the other one
    return ThreadPool{&parallelFor, reinterpret_cast<void*>(seats), allowed};
}

} // namespace freqfusion
