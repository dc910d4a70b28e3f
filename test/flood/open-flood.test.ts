import t from 'tap'
import { INBOUND_LIMITS } from '../../proxy/inbound/inbound.ts'
import { SHARE_LIMITS } from '../../proxy/inbound/shares.ts'
import { floodOpens, MAX_FLOWS } from './open-flood.ts'

/** The same with a million: `node .config/node24.cjs test/flood/open-flood.ts`. */
const OPENS = 100_000

t.setTimeout(280_000)

/** What one peer may have open to one instance. */
const most = Math.ceil(Math.ceil(MAX_FLOWS * SHARE_LIMITS.ofFlows) * SHARE_LIMITS.ofFlows)

t.test('while a node of the mesh sends OPENs without end, the others are served', async (t) => {
  const report = await floodOpens({ opens: OPENS, kinds: ['open', 'open', 'unknown', 'malformed', 'reset'] })
  t.same(report.same.failed, {}, 'every call of an honest node to the flooded service is answered')
  t.same(report.other.failed, {}, 'and every call to another service of the same node')
  t.ok(report.same.answered > 10 && report.other.answered > 10)
  t.ok(
    report.same.mostBefore <= INBOUND_LIMITS.dials,
    `no call waited behind more than ${INBOUND_LIMITS.dials} connections to its service: ${report.same.mostBefore}`,
  )
  t.ok(report.hasOldFlow, 'a flow that was open before goes on')
  t.equal(report.sessionsLost, 0, 'and so does the session that it is in')
  t.equal(report.attack.sent, OPENS)
  t.notOk(report.attack.isCut, 'that is no violation of the protocol')
  t.ok(
    report.mostStreams <= most,
    `${report.mostStreams} streams of the flooding node at most, of ${most} that it may have`,
  )
  const honest = report.same.answered
  t.ok(report.attack.answers['opened']! <= most, `${report.reached - honest} connections have reached the instance`)
  const seconds = report.attack.seconds + 10 // before and after it, others are refused nothing
  t.ok(report.refusalLines <= 10 + seconds, `${report.refusalLines} log lines about all that was refused`)
})
