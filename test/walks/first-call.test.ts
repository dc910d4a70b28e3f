import t from 'tap'
import { external, Origin, sla, wholeMesh } from './mesh.ts'

/*
 * Who reads at the root that an instance runs calls it in the same moment.
 */

t.setTimeout(120_000)

/** Of one application, about one first call in six used to be refused. */
const APPLICATIONS = 40

t.test('what the root says is running can be called at once on the node that runs it', async (t) => {
  await using origin = await Origin.start('vault')
  await using mesh = await wholeMesh(['here'])
  const refused: string[] = []
  for (let i = 0; i < APPLICATIONS; i++) {
    await mesh.control.api.call('POST', '/apps', sla([external('vault', origin, 'here')], `shop${i}`))
    await mesh.control.running(i + 1)
    const name = `shop${i}.acme.vault.prod.any.rr.local`
    await mesh
      .node('here')
      .get(name)
      .catch((error: Error) => refused.push(`${name}: ${error.message}`))
  }
  t.same(refused, [])
})
