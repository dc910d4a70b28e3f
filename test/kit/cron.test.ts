import fc from 'fast-check'
import t from 'tap'
import { cronProblem, lastDue, nextDue } from '../../src/core/kit/cron.ts'

const at = (text: string) => Date.parse(`${text}Z`)
const text = (ms: number | undefined) => ms && new Date(ms).toISOString().slice(0, 19)

t.test('what is a schedule, and what is wrong with what is none', async (t) => {
  for (const cron of ['* * * * *', '*/15 0-6 * * MON-FRI', '0 3 1,15 * *', '@daily', '@hourly', '0 0 29 2 *'])
    t.equal(cronProblem(cron), undefined, cron)
  const rows: [string, RegExp][] = [
    ['', /has 0 fields instead of five/],
    ['0 3 * *', /has 4 fields/],
    ['0 0 3 * * *', /has 6 fields/],
    ['2026-12-01T00:00:00', /has 1 field instead/],
    ['61 * * * *', /Invalid value for minute: 61/],
    ['*/0 * * * *', /stepping: 0/],
    ['@reboot', /not supported/],
    ['@never', /./],
    ['0 0 30 2 *', /is never due/],
    ['x y z a b', /./],
  ]
  for (const [cron, problem] of rows) t.match(cronProblem(cron), problem, cron)
})

t.test('the next and the last time, in UTC, also where local clocks are changed', async (t) => {
  t.equal(text(nextDue('0 3 * * *', at('2026-11-30T02:59:59'))), '2026-11-30T03:00:00')
  t.equal(text(nextDue('0 3 * * *', at('2026-11-30T03:00:00'))), '2026-12-01T03:00:00', 'later, not at the same time')
  t.equal(text(nextDue('0 3 * * *', at('2026-11-30T02:59:59') + 999)), '2026-11-30T03:00:00')
  t.equal(text(nextDue('30 2 * * *', at('2026-03-29T00:00:00'))), '2026-03-29T02:30:00')
  t.equal(text(nextDue('0 0 29 2 *', at('2026-01-01T00:00:00'))), '2028-02-29T00:00:00')
  t.equal(text(lastDue('0 3 * * *', at('2026-01-01T00:00:00'), at('2026-11-30T02:00:00'))), '2026-11-29T03:00:00')
  t.equal(text(lastDue('0 3 * * *', at('2026-11-29T03:00:00'), at('2026-11-30T02:00:00'))), undefined)
  t.equal(text(lastDue('* * * * *', at('1970-01-01T00:00:00'), at('2026-11-30T02:00:00'))), '2026-11-30T02:00:00')
})

t.test('the last time is the one that counting from the first one comes to', async () => {
  const cron = fc.constantFrom('*/7 * * * *', '0 3 * * *', '5 */6 * * 1-5', '@monthly', '0 0 13 * 5')
  const start = at('2026-11-01T00:00:00')
  fc.assert(
    fc.property(cron, fc.nat(40 * 86_400_000), fc.nat(3 * 86_400_000), (cron, from, span) => {
      const [after, until] = [start + from, start + from + span]
      let last: number | undefined
      for (let next = nextDue(cron, after); next !== undefined && next <= until; next = nextDue(cron, next)) last = next
      return lastDue(cron, after, until) === last
    }),
    { numRuns: 100 },
  )
})
