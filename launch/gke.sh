#!/usr/bin/env bash
# Trains on GKE: a JobSet with a Job for every slice and a pod for every host. The
# cluster needs JobSet (0.8 or newer), and node pools of the topology with four chips a
# machine. JobSet restarts everything after a preemption.
#
#   launch/gke.sh NAME --topology v5e:16x16 --slices 2 --image IMAGE \
#     --storage claim:NAME --restarts 3 [--dry-run] \
#     -- train --config configs/fit.py:size=3p9b,pod=v5e:16x16 --config.mesh.replica=2 \
#     --workdir /mnt/snapvideo/runs/1
#
#   --image IMAGE            built from launch/Dockerfile
#   --storage PLACE          gs://BUCKET (GKE's driver of Cloud Storage FUSE) or
#                            claim:NAME, a ReadWriteMany volume claim, as of Filestore
#   --service-account NAME   of Kubernetes; for gs:// it needs write access to the bucket (default)
#   --restarts N             after failures other than preemption
#   --spot                   only on spot nodes
#   --queue NAME             a LocalQueue of Kueue
#   --dry-run                print the manifest without applying it
#
# Stop it with: kubectl delete jobset NAME
set -euo pipefail
# shellcheck source=launch/_cloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/_cloud.sh"

read_options "topology slices image storage service-account restarts queue" \
  "spot dry-run" "$@"
need_name JobSet
need_slices
need image "one built from launch/Dockerfile, as REGION-docker.pkg.dev/PROJECT/REPOSITORY/snapvideo:1"
need_storage "gs://BUCKET or claim:NAME"
need_number restarts 0 "the number of restarts after failures other than preemption"
need_train

for text in "${given[@]}" "${rest[@]}"; do
  [[ $text != *[[:cntrl:]]* ]] ||
    fail "$(quoted "$text") has a control character, which a manifest must not have."
done

# string TEXT: a JSON string, which is also YAML.
string() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  echo "\"$text\""
}

case ${given[storage]} in
  gs://?*)
    bucket=${given[storage]#gs://}
    annotations='gke-gcsfuse/volumes: "true"'
    # The same options as in launch/setup_host.sh, as the driver spells them.
    volume="csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $(string "${bucket%/}")
                      mountOptions: \"implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0,file-system:rename-dir-limit:1000000\""
    ;;
  claim:?*)
    annotations=""
    volume="persistentVolumeClaim:
                    claimName: $(string "${given[storage]#claim:}")"
    ;;
  *) fail "--storage is '${given[storage]}'; wanted gs://BUCKET or claim:NAME." ;;
esac

# Fields: jobset.sigs.k8s.io/docs, and GKE's page "Deploy TPU Multislices in GKE".
manifest() {
  local argument
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: "${names[0]}"
  annotations:
    # A slice is a node pool: no two Jobs in one.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
YAML
  if [[ -n ${given[queue]:-} ]]; then
    cat <<YAML
  labels:
    kueue.x-k8s.io/queue-name: $(string "${given[queue]}")
YAML
  fi
  cat <<YAML
spec:
  failurePolicy:
    maxRestarts: ${given[restarts]}
    rules:
      - name: preempted
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: ["PodFailurePolicy"]
  replicatedJobs:
    - name: slice
      replicas: ${given[slices]}
      template:
        spec:
          backoffLimit: 0
          completionMode: Indexed
          completions: $hosts
          parallelism: $hosts
          podFailurePolicy:
            rules:
              # The machine was preempted, or \`snapvideo train\` was.
              - action: FailJob
                onPodConditions:
                  - type: DisruptionTarget
                    status: "True"
              - action: FailJob
                onExitCodes:
                  containerName: train
                  operator: In
                  values: [75]
          template:
YAML
  if [[ -n $annotations ]]; then
    cat <<YAML
            metadata:
              annotations:
                $annotations
YAML
  fi
  cat <<YAML
            spec:
              restartPolicy: Never
              # More than run.grace_seconds, 25.
              terminationGracePeriodSeconds: 60
              serviceAccountName: $(string "${given[service-account]:-default}")
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $gke
                cloud.google.com/gke-tpu-topology: $slice_shape
YAML
  if [[ -n ${given[spot]:-} ]]; then
    cat <<YAML
                cloud.google.com/gke-spot: "true"
YAML
  fi
  cat <<YAML
              containers:
                - name: train
                  image: $(string "${given[image]}")
                  # With the compiler's flags that the plan used; see the script.
                  command: ["launch/train_pod.sh"]
                  args:
YAML
  for argument in "${rest[@]:1}"; do
    echo "                    - $(string "$argument")"
  done
  cat <<YAML
                  securityContext:
                    privileged: true
                  resources:
                    limits:
                      google.com/tpu: "4"
                  volumeMounts:
                    - name: storage
                      mountPath: $STORAGE
              volumes:
                - name: storage
                  $volume
YAML
}

text=$(manifest)
if is_dry; then
  echo "$text"
  echo "# + kubectl apply -f -"
else
  kubectl apply -f - <<<"$text"
  echo "Its log: kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=${names[0]},batch.kubernetes.io/job-completion-index=0"
fi
