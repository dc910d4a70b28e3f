import { useEffect, useState } from 'preact/hooks'
import type { Api } from '../live/api.ts'
import { migrate, type Moved, restart, revisionsOf, rollBack, scale, type Revision } from '../live/calls.ts'
import { restartAll } from '../live/restart.ts'
import { type Desk, Field, type Question, useDesk } from '../parts/desk.tsx'
import { hashOf } from '../model/route.ts'
import type { InstanceRow, NodeRow } from '../model/rows.ts'
import type { ServiceView } from '../model/services.ts'
import { counted, nameParts, whenText } from '../model/text.ts'
import { may, namespaceOf } from '../model/who.ts'

/** As the API takes. */
const MOST_REPLICAS = 1_000

export function ServiceActions({ view, instances }: { view: ServiceView; instances: readonly InstanceRow[] }) {
  const desk = useDesk()
  const { row } = view
  const { name } = nameParts(row.id)
  const changes = may(desk.me, 'change', namespaceOf(row.id))
  const running = instances.filter(({ state }) => state === 'running').map(({ id }) => id)
  return (
    <div class="actions">
      {changes ? (
        <>
          <button
            type="button"
            class="button small"
            onClick={() => desk.ask(scaleQuestion(desk.api, row.id, row.replicas))}
          >
            Scale
          </button>
          <button
            type="button"
            class="button small"
            disabled={running.length === 0 || row.oneShot === true}
            onClick={() => desk.ask(restartQuestion(desk, name, running))}
          >
            Restart
          </button>
          <button type="button" class="button small" onClick={() => desk.ask(rollbackQuestion(desk.api, row.id))}>
            Roll back
          </button>
        </>
      ) : undefined}
      <a class="button small" href={hashOf({ view: 'why', open: row.id })}>
        Why there?
      </a>
    </div>
  )
}

function scaleQuestion(api: Api, id: string, replicas: number) {
  const { name } = nameParts(id)
  return {
    title: `Scale ${name}`,
    text: `It has ${counted(replicas, 'replica')} now. A document that is applied later sets its own number again.`,
    fields: (
      <Field label="Replicas">
        <input
          class="field"
          type="number"
          name="replicas"
          min={0}
          max={MOST_REPLICAS}
          step={1}
          required
          autofocus
          defaultValue={String(replicas)}
        />
      </Field>
    ),
    confirm: 'Scale',
    act: async (entered: FormData) => {
      const wanted = Number(entered.get('replicas'))
      await scale(api, id, wanted)
      return `${name} is to have ${counted(wanted, 'replica')}.`
    },
  }
}

function restartQuestion({ api, say }: Desk, name: string, instances: readonly string[]) {
  return {
    title: `Restart ${name}`,
    text: `Its ${counted(instances.length, 'ready instance')}, one after the other: each successor takes over when it is ready, so no call fails. Keep this page open: it asks for the next one.`,
    confirm: 'Restart',
    act: async () => {
      const progress = (done: number) => say(`${name}: ${done} of ${instances.length} restarted …`, true)
      restartAll(api, instances, progress).then(
        () => say(`${name} is restarted.`),
        (error: unknown) => say((error as Error).message),
      )
      return `${name} is being restarted …`
    },
  }
}

function rollbackQuestion(api: Api, id: string) {
  const { name } = nameParts(id)
  return {
    title: `Roll back ${name}`,
    text: 'An earlier document is applied again, with as many replicas as there are now. Instances that still run it go on as they are.',
    fields: <Revisions api={api} id={id} />,
    confirm: 'Roll back',
    act: async (entered: FormData) => {
      const to = entered.get('to')
      if (typeof to !== 'string' || to === '') throw new Error('There is no earlier revision.')
      const { revision, change } = await rollBack(api, id, Number(to))
      return change === 'unchanged'
        ? `${name} has that document already.`
        : `${name} goes back to revision ${revision}.`
    },
  }
}

function Revisions({ api, id }: { api: Api; id: string }) {
  const [revisions, setRevisions] = useState<Revision[]>()
  const [fault, setFault] = useState<string>()
  useEffect(() => {
    const gone = new AbortController()
    revisionsOf(api, id, gone.signal).then(setRevisions, (error: unknown) => setFault((error as Error).message))
    return () => gone.abort()
  }, [api, id])
  if (fault !== undefined) return <p class="fault">{fault}</p>
  if (revisions === undefined) return <p class="muted">Asking for its revisions …</p>
  const earlier = revisions.toReversed().slice(1)
  if (earlier.length === 0) return <p class="muted">It has no earlier revision.</p>
  return (
    <Field label="Revision">
      <select class="field" name="to" autofocus>
        {earlier.map((revision) => (
          <option key={revision.number} value={revision.number}>
            {revisionText(revision)}
          </option>
        ))}
      </select>
    </Field>
  )
}

function revisionText({ number, at, rollbackTo, isComplete }: Revision): string {
  const how = rollbackTo === undefined ? '' : `, the same as ${rollbackTo}`
  return `${number}, applied ${whenText(at, Date.now())}${how}${isComplete === true ? '' : ', never ran everywhere'}`
}

export function InstanceActions({ row, nodes }: { row: InstanceRow; nodes: readonly NodeRow[] }) {
  const desk = useDesk()
  const isPlaced = row.node !== undefined
  return (
    <div class="actions">
      {may(desk.me, 'change', namespaceOf(row.id)) ? (
        <>
          <button
            type="button"
            class="button small"
            disabled={!isPlaced}
            onClick={() => desk.ask(instanceRestartQuestion(desk.api, row))}
          >
            Restart
          </button>
          <button
            type="button"
            class="button small"
            disabled={!isPlaced}
            onClick={() => desk.ask(migrateQuestion(desk.api, row, nodes))}
          >
            Migrate
          </button>
        </>
      ) : undefined}
      <a class="button small" href={hashOf({ view: 'why', open: row.id })}>
        Why there?
      </a>
    </div>
  )
}

function instanceRestartQuestion(api: Api, row: InstanceRow) {
  const { name } = nameParts(row.id)
  return {
    title: `Restart ${name}`,
    text: 'Its successor starts beside it and takes over when it is ready. What cannot run twice is stopped first.',
    confirm: 'Restart',
    act: async () => {
      const { gap } = await restart(api, row.id)
      return gap === undefined ? `The successor of ${name} starts.` : `${name} was stopped first: ${gap}`
    },
  }
}

/** To this node, after it was dragged there. */
export function moveQuestion(api: Api, row: InstanceRow, to: string): Question {
  const { name } = nameParts(row.id)
  return {
    title: `Move ${name} to ${to}`,
    text: `It runs on ${row.node ?? 'no node'} now. Its successor starts on ${to} and takes over when it is ready; the node refuses what does not fit there.`,
    confirm: 'Move',
    act: async () => movedText(name, await migrate(api, row.id, to)),
  }
}

function movedText(name: string, { node, gap, keeps }: Moved): string {
  return [`${name} moves to ${node ?? 'another cluster'}.`, gap, keeps].filter(Boolean).join(' ')
}

function migrateQuestion(api: Api, row: InstanceRow, nodes: readonly NodeRow[]) {
  const { name } = nameParts(row.id)
  const others = nodes.filter(({ id, condition, cordon }) => id !== row.node && condition === 'alive' && !cordon)
  return {
    title: `Migrate ${name}`,
    text: (
      <>
        It is on <span class="mono">{row.node}</span>. It starts on the other node, takes over when it is ready, and
        then ends here. Its number and names stay.
      </>
    ),
    fields: (
      <Field label="To" hint="Nodes that are alive and take new instances.">
        <select class="field mono" name="to" autofocus>
          <option value="">the node that the scheduler chooses</option>
          {others.map(({ id }) => (
            <option key={id}>{id}</option>
          ))}
        </select>
      </Field>
    ),
    confirm: 'Migrate',
    act: async (entered: FormData) => {
      const to = entered.get('to')
      return movedText(name, await migrate(api, row.id, typeof to === 'string' && to !== '' ? to : undefined))
    },
  }
}
