import { MeshError } from '../errors.ts'

/** Calls `act` once when the signal aborts, in this very call if it has; disposing the result takes the listener away. */
export function onAbort(signal: AbortSignal, act: (reason: unknown) => void): Disposable {
  const aborted = () => act(signal.reason)
  if (signal.aborted) aborted()
  else signal.addEventListener('abort', aborted, { once: true })
  return { [Symbol.dispose]: () => signal.removeEventListener('abort', aborted) }
}

/** The promise, or a rejection with the signal's reason as soon as that aborts. */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const listener = onAbort(signal, reject)
  return Promise.race([promise, aborted]).finally(() => listener[Symbol.dispose]())
}

/**
 * The promise, if it settles in time and before the signal aborts.
 * @throws MeshError REQUEST_TIMEOUT after `ms`; the signal's reason when that aborts
 */
export function within<T>(promise: Promise<T>, ms: number, signal: AbortSignal): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => reject(new MeshError('REQUEST_TIMEOUT', { ms })), ms)
  return unlessAborted(Promise.race([promise, late]), signal).finally(() => clearTimeout(timer))
}

/** The promise, or `undefined` as soon as the signal aborts; nothing of it stays at the signal. */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  const { promise: aborted, resolve } = Promise.withResolvers<undefined>()
  using _listener = onAbort(signal, () => resolve(undefined))
  return await Promise.race([promise, aborted])
}
