import type { Api } from '../../live/api.ts'
import { organisations, type OwnerRow, owners, setAdmits, setOwner } from '../../live/people.ts'
import { namesIn, textIn } from '../../model/entered.ts'
import { may } from '../../model/who.ts'
import { Field, type Question, useDesk } from '../../parts/desk.tsx'
import { Sheet, useAnswer, Waiting } from '../../parts/sheet.tsx'

/** Whose clusters are, and who may place on them. */
export function Clusters() {
  const { api, me, ask } = useDesk()
  const asked = useAnswer(async (api, signal) => ({
    rows: await owners(api, signal),
    names: (await organisations(api, signal)).map(({ name }) => name),
  }))
  if (asked.state !== 'answered') return <Waiting asked={asked} />
  const { answer, again } = asked
  return (
    <Sheet
      label="Owners of clusters"
      rows={answer.rows}
      keyOf={({ cluster }) => cluster}
      empty="There is no cluster that you operate."
      columns={[
        { head: 'Cluster', cell: ({ cluster }) => <b>{cluster}</b> },
        { head: 'Owner', cell: ({ organisation }) => organisation ?? 'nobody' },
        { head: 'May place there', cell: admittedText },
        {
          head: '',
          cell: (row) => (
            <>
              {may(me, 'mesh', 'mesh') ? (
                <button
                  type="button"
                  class="button small"
                  onClick={() => ask(ownerQuestion(api, row, answer.names, again))}
                >
                  Owner<span class="hidden"> of {row.cluster}</span>
                </button>
              ) : undefined}
              {row.organisation === undefined ? undefined : (
                <button type="button" class="button small" onClick={() => ask(admitsQuestion(api, row, again))}>
                  Admit<span class="hidden"> to {row.cluster}</span>
                </button>
              )}
            </>
          ),
        },
      ]}
    />
  )
}

function admittedText({ organisation, admits }: OwnerRow): string {
  if (organisation === undefined || admits.includes('*')) return 'every organisation'
  return [organisation, ...admits].join(', ')
}

function ownerQuestion(api: Api, row: OwnerRow, names: readonly string[], again: () => void): Question {
  const { cluster, organisation } = row
  return {
    title: `Owner of ${cluster}`,
    text: 'It takes instances of its owner, and of those whom the owner admits. What runs there already goes on.',
    fields: (
      <Field label="Owner">
        <select class="field" name="organisation" autofocus>
          <option value="">nobody: every organisation may place there</option>
          {names.map((name) => (
            <option key={name} selected={name === organisation}>
              {name}
            </option>
          ))}
        </select>
      </Field>
    ),
    confirm: 'Change',
    act: async (entered) => {
      const owner = textIn(entered, 'organisation')
      await setOwner(api, cluster, owner === '' ? null : owner)
      again()
      return owner === '' ? `${cluster} is nobody’s.` : `${cluster} is ${owner}’s.`
    },
  }
}

function admitsQuestion(api: Api, { cluster, admits }: OwnerRow, again: () => void): Question {
  return {
    title: `Who may place on ${cluster}`,
    text: 'Organisations beside its owner, with spaces between them; * is every one.',
    fields: (
      <Field label="Organisations">
        <input
          class="field"
          name="admits"
          autofocus
          autocomplete="off"
          spellcheck={false}
          defaultValue={admits.join(' ')}
        />
      </Field>
    ),
    confirm: 'Change',
    act: async (entered) => {
      await setAdmits(api, cluster, namesIn(entered, 'admits'))
      again()
      return `Who may place on ${cluster} is changed.`
    },
  }
}
