import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { CheckReport } from '../../src/client/reports.ts'
import { askAgent } from '../../src/agent/local-api.ts'
import { external, Origin, sla, wholeMesh } from './mesh.ts'
import { noOtherUsers } from '../support/other-users.ts'
import { until } from '../support/until.ts'

/*
 * An instance that leaves its session and clears its environment is still the instance it was.
 */

t.setTimeout(280_000)

/** Says on a line of the file in argv what a call to the VIP came to. */
const CALL = `
  const [vip, file, who] = process.argv.slice(1)
  const said = (what) => require('fs').appendFileSync(file, who + ' ' + what + '\\n')
  require('http').get({ host: vip, port: 8080 }, (answer) => said(answer.statusCode)).on('error', (error) => said(error.code))`

for (const instanceUsers of ['separate', 'agent'] as const) {
  const how = instanceUsers === 'separate' ? 'its user' : 'its control group'
  t.test(
    `an instance that escapes is known by ${how}: refused where it was refused`,
    { skip: noOtherUsers },
    async (t) => {
      await using origin = await Origin.start('vault')
      await using mesh = await wholeMesh([])
      const shared = mkdtempSync('/tmp/hedgerow-escape-')
      chmodSync(shared, 0o777)
      t.teardown(() => rmSync(shared, { recursive: true, force: true }))
      const here = await mesh.start('here', { instanceUsers, instanceUids: '60200-60231' })
      await mesh.apply([external('vault', origin, 'here')], 1)
      const [vip = ''] = await here.dns.resolve4('shop.acme.vault.prod.any.rr.local')
      t.match(await here.get('shop.acme.vault.prod.any.rr.local'), { status: 200 }, 'the node itself may call it')

      const file = join(shared, 'said')
      const key = join(mesh.control.dir, 'agent-here/proxies.json')
      t.ok(existsSync(key), 'the file to be read exists')
      const call = (who: string) => `'${process.execPath}' -e "$CALL" ${vip} ${file} ${who}`
      const escape = `(setsid env -i CALL="$CALL" sh -c 'sleep 1; ${call('escaped').replaceAll("'", '')}' &)`
      const steal = `cat ${key} > /dev/null 2>&1 && echo key stolen >> ${file} || echo key kept >> ${file}`
      const cmd = ['sh', '-c', `${call('instance')}; ${steal}; ${escape}; exec sleep 60`]
      const spy = {
        microservice_name: 'spy',
        microservice_namespace: 'prod',
        cmd,
        environment: [`CALL=${CALL}`],
        isolation: 'none',
      }
      await mesh.control.api.call('POST', '/apps', sla([spy], 'spies'))
      await until(() => existsSync(file) && /^escaped /m.test(readFileSync(file, 'utf8')), 'the escaped one has called')
      const said = readFileSync(file, 'utf8')
      t.match(said, /^instance 403$/m, 'through the proxy, as itself')
      t.match(said, /^escaped ECONNRESET$/m, 'directly, as itself too')
      t.match(said, instanceUsers === 'separate' ? /^key kept$/m : /^key stolen$/m)

      const { checks } = (await askAgent(join(mesh.control.dir, 'agent-here/agent.sock'), '/check')) as CheckReport
      const { finding = '' } = checks.find(({ check }) => check === 'instances') ?? {}
      t.match(finding, instanceUsers === 'separate' ? /^users of their own/ : /run as the user of the agent/)
    },
  )
}
