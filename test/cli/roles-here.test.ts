import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { LocalApi } from '../../src/agent/local-api.ts'
import { agent } from '../../src/cli/roles-here.ts'
import { explain, MeshError } from '../../src/core/errors.ts'

/** What commands say of a machine without an agent that answers. */

async function said(asked: Promise<unknown>): Promise<string> {
  try {
    return JSON.stringify(await asked)
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    return `${error.code}: ${explain(error)}. ${String(error.details['remedy'])}`
  }
}

t.test('an agent that starts, one that serves, and another role alone', async (t) => {
  const state = mkdtempSync(join(tmpdir(), 'hedgerow-')) // the path of a socket must be short
  t.teardown(() => rmSync(state, { recursive: true, force: true }))
  for (const role of ['agent', 'cluster']) mkdirSync(join(state, role))
  t.match(await said(agent({ state }, '/status')), /^NOT_RUNNING: cannot reach the agent at .*agent\.sock\. undefined$/)
  {
    await using api = await LocalApi.start({ dir: join(state, 'agent') })
    await api.claim()
    t.match(await said(agent({ state }, '/status')), 'NOT_RUNNING: the agent is starting. Try again in a moment;')
    api.serve({ '/status': () => ({ pid: 1 }) })
    t.equal(await said(agent({ state }, '/status')), '{"pid":1}')
    t.match(await said(agent({ state }, '/nothing')), 'USAGE: the agent does not know the request /nothing')
  }
  await using cluster = await LocalApi.start({ dir: join(state, 'cluster'), name: 'cluster' })
  await cluster.claim()
  t.match(
    await said(agent({ state }, '/peers')),
    /^NOT_RUNNING: cannot reach the agent at .*\. Here runs no agent, only: cluster\. Run the command on a node\.$/,
  )
})
