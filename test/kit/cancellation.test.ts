import t from 'tap'
import { Cancellation } from '../../src/core/kit/cancellation.ts'

t.test('it tells the one who listens, once', async (t) => {
  const heard: string[] = []
  const cancellation = new Cancellation()
  cancellation.listen(() => heard.push('earlier'))
  cancellation.listen(() => heard.push('listener'))
  t.notOk(cancellation.isCancelled, 'not cancelled yet')
  cancellation.cancel()
  cancellation.cancel()
  t.ok(cancellation.isCancelled, 'cancelled')
  t.strictSame(heard, ['listener'], 'the later listener has taken the place of the earlier one')
  cancellation.listen(() => heard.push('late'))
  t.strictSame(heard, ['listener', 'late'], 'who comes late hears of it at once')
})

t.test('who has left hears nothing', async (t) => {
  const cancellation = new Cancellation()
  cancellation.listen(() => t.fail('it has left'))
  cancellation.leave()
  cancellation.cancel()
  t.ok(cancellation.isCancelled, 'it is cancelled all the same')
})

t.test('it follows a signal', async (t) => {
  const controller = new AbortController()
  const cancellation = Cancellation.from(controller.signal)
  t.notOk(cancellation.isCancelled, 'the signal has not aborted')
  controller.abort()
  t.ok(cancellation.isCancelled, 'the signal has aborted')
  t.ok(Cancellation.from(AbortSignal.abort()).isCancelled, 'a signal that had aborted before')
})
