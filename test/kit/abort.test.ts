import t from 'tap'
import { orAborted } from '../../src/core/kit/abort.ts'

t.test('what a signal cuts short is undefined, and nothing of it stays at the signal', async (t) => {
  const ending = new AbortController()
  let listeners = 0
  const { signal } = ending
  const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)]
  signal.addEventListener = (...args: Parameters<AbortSignal['addEventListener']>) => {
    listeners += 1
    add(...args)
  }
  signal.removeEventListener = (...args: Parameters<AbortSignal['removeEventListener']>) => {
    listeners -= 1
    remove(...args)
  }
  t.equal(await orAborted(Promise.resolve(7), signal), 7)
  await t.rejects(orAborted(Promise.reject(new Error('no')), signal), { message: 'no' })
  t.equal(listeners, 0)
  const never = orAborted(new Promise<number>(() => undefined), signal)
  ending.abort()
  t.equal(await never, undefined)
  t.equal(
    await orAborted(new Promise<number>(() => undefined), signal),
    undefined,
    'also of one that has aborted before',
  )
})
